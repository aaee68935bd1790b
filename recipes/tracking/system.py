"""What the machine is doing: processor, memory and, where NVIDIA's library answers, each GPU."""

from collections.abc import Iterator


def sample() -> dict[str, float]:
    """Shares in %, memory in 1e9 bytes; the processor's share is that of the tenth of a second it takes."""
    import psutil

    memory = psutil.virtual_memory()
    return {
        "system/cpu_percent": psutil.cpu_percent(interval=0.1),
        "system/memory_gb": round((memory.total - memory.available) / 1e9, 3),
        "system/memory_percent": memory.percent,
        **dict(_gpus()),
    }


def _gpus() -> Iterator[tuple[str, float]]:
    try:
        import pynvml
    except ImportError:
        return
    try:
        pynvml.nvmlInit()
        for number in range(pynvml.nvmlDeviceGetCount()):
            handle = pynvml.nvmlDeviceGetHandleByIndex(number)
            yield f"system/gpu{number}_percent", float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
            yield f"system/gpu{number}_memory_gb", round(pynvml.nvmlDeviceGetMemoryInfo(handle).used / 1e9, 3)
    except pynvml.NVMLError:  # no driver, or a card that does not tell
        return
