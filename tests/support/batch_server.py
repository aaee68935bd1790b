"""A server of the batch endpoints on the loopback: files, jobs, answers; faults on demand."""

import json
from email.parser import BytesParser

from chat_server import ChatServer


class BatchServer(ChatServer):
    """`uploads`: requests by file id. `jobs`: by id. `polls`: questions until a job has ended.

    `fate(key, body)`: what becomes of a request in a batch: None (answered), a status, or "expired". A job
    with an expired request ends as such. `status`: how jobs end, if it is given. `job_fault(number)`: fault
    of a request that asks for a job.
    """

    def __init__(self, polls=1, fate=None, status=None, job_fault=None, **options):
        super().__init__(**options)
        self.polls, self.status = polls, status
        self.fate = fate or (lambda key, body: None)
        self.job_fault = job_fault or (lambda number: None)
        self.uploads, self.jobs, self.files, self.asked = {}, {}, {}, []

    def handle(self, handler):
        path = handler.path.removeprefix("/v1/")
        if path == "chat/completions":
            return super().handle(handler)
        data = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        with self.lock:
            self.asked.append((handler.command, path))
        if path == "files":
            return self.answer_json(handler, self.upload(handler.headers["content-type"], data))
        if path == "batches" and handler.command == "POST":
            fault = self.job_fault(sum(entry == ("POST", "batches") for entry in self.asked) - 1)
            if fault == "refused":
                return self.send(handler, 500, "{}")
            job = self.create(json.loads(data))
            return self.send(handler, 500, "{}") if fault == "lost" else self.answer_json(handler, job)
        if path.startswith("batches?"):
            return self.answer_json(handler, {"data": list(self.jobs.values())})
        if path.startswith("batches/"):
            return self.answer_json(handler, self.poll(path.split("/")[1]))
        if path.startswith("files/"):
            return self.send(handler, 200, self.files[path.split("/")[1]])
        return self.send(handler, 404, "{}")

    def answer_json(self, handler, content):
        return self.send(handler, 200 if content else 404, json.dumps(content))

    def upload(self, content_type, data):
        form = BytesParser().parsebytes(b"content-type: " + content_type.encode() + b"\r\n\r\n" + data)
        parts = {part.get_param("name", header="content-disposition"): part for part in form.get_payload()}
        assert parts["purpose"].get_payload() == "batch"
        name = f"file-{len(self.uploads)}"
        lines = parts["file"].get_payload(decode=True).decode().splitlines()
        self.uploads[name] = [json.loads(line) for line in lines]
        return {"id": name, "object": "file", "purpose": "batch"}

    def create(self, job):
        name = f"batch_{len(self.jobs)}"
        total = len(self.uploads[job["input_file_id"]])
        assert job["endpoint"] == "/v1/chat/completions" and job["completion_window"] == "24h"
        counts = {"total": total, "completed": 0, "failed": 0}
        self.jobs[name] = {"id": name, **job, "status": "in_progress", "request_counts": counts, "asked": 0}
        return self.jobs[name]

    def poll(self, name):
        job = self.jobs.get(name)
        if job is None:
            return None
        job["asked"] += 1
        if job["asked"] > self.polls and job["status"] == "in_progress":
            self.end(job)
        return job

    def end(self, job):
        answers, errors = [], []
        for request in self.uploads[job["input_file_id"]]:
            key, body = request["custom_id"], request["body"]
            fate = self.fate(key, body)
            entry = {"id": f"r-{key}", "custom_id": key, "response": None, "error": None}
            if fate is None:
                response = {"status_code": 200, "request_id": "x", "body": self.reply(body)}
                answers.append({**entry, "response": response})
            elif fate == "expired":
                errors.append({**entry, "error": {"code": "batch_expired", "message": "too late"}})
            else:
                body = {"error": {"message": "injected"}}
                errors.append({**entry, "response": {"status_code": fate, "body": body}})
        expired = any(entry["error"] for entry in errors)
        job["status"] = self.status or ("expired" if expired else "completed")
        if job["status"] == "failed":
            job["errors"] = {"data": [{"code": "invalid", "message": "line 1 is no request"}]}
            return
        for field, lines in (("output_file_id", answers), ("error_file_id", errors)):
            if lines:
                job[field] = f"{job['id']}-{field}"
                self.files[job[field]] = "".join(json.dumps(line) + "\n" for line in lines)
