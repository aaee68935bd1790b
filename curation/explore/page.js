"use strict";
(() => {
  // Texts of the data reach the page by textContent and option labels alone, so that none is ever markup.
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 24;
  const SVG = "http://www.w3.org/2000/svg";
  const at = (id) => document.getElementById(id);
  const number = (value) => value.toLocaleString("en");
  const counted = (value, one, many) => `${number(value)} ${value === 1 ? one : many}`;
  const shown = (value) => (value === null || value === undefined ? "–" : String(value));
  const scoreNames = data.scores.map((score) => score.name);
  const places = new Map(scoreNames.map((name, place) => [name, place]));
  const byGroup = new Map();
  for (const item of data.items) {
    if (item.group === undefined) continue;
    if (!byGroup.has(item.group)) byGroup.set(item.group, []);
    byGroup.get(item.group).push(item);
  }

  function make(tag, className, text) {
    const node = document.createElement(tag);
    if (className) node.className = className;
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function draw(tag, attributes, text) {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    return node;
  }

  function options(select, pairs) {
    select.replaceChildren(...pairs.map(([value, label]) => {
      const option = make("option", "", label);
      option.value = value;
      return option;
    }));
  }

  // ---- what the page holds

  function tellCounts() {
    const { whole, held } = data;
    at("title").textContent = `Subset: ${data.name}`;
    const share = whole.pool ? (100 * whole.picked / whole.pool).toFixed(1) : "0";
    const parts = [
      `${number(whole.picked)} of ${number(whole.pool)} samples picked (${share} %), ` +
      `${number(whole.dropped)} dropped; ${counted(whole.quarantined, "record", "records")} in quarantine.`,
    ];
    if (whole.copied) {
      parts.push(`Samples with copies: ${number(whole.copied.picked)} picked, ${number(whole.copied.dropped)} dropped.`);
    }
    if (whole.leaked) {
      parts.push(`Leaks of benchmarks: ${number(whole.leaked.picked)} picked, ${number(whole.leaked.dropped)} dropped.`);
    }
    at("summary").textContent = parts.join(" ");
    const sampled = held.samples < whole.pool
      ? `This page holds ${number(held.samples)} samples (${number(held.picked)} picked), drawn at random with ` +
        `seed ${held.seed} from the picked and from the dropped ones of each source; their shares here are not ` +
        "those of the pool. The figures count the whole pool."
      : `This page holds all ${number(held.samples)} samples.`;
    const more = [sampled];
    if (held.copies) more.push(`Their copies beside them: ${number(held.beside)} of ${number(held.copies)} that it does not hold already.`);
    if (whole.quarantined) more.push(`Records of the quarantine on it: ${number(held.quarantined)}.`);
    if (held.page_full) more.push(`Pictures left out, to keep the page small: ${number(held.page_full)}.`);
    at("held").textContent = more.join(" ");
    for (const [name, value] of data.selection) at("selection").append(make("dt", "", name), make("dd", "", shown(value)));
  }

  function sourceTable() {
    const table = make("table");
    const most = Math.max(...data.sources.map((source) => source.picked + source.dropped), 1);
    data.sources.forEach((source, place) => {
      const row = table.insertRow();
      const button = make("button", "link", source.name);
      button.type = "button";
      button.title = "Show this source";
      button.addEventListener("click", () => { at("source").value = String(place); apply(); });
      const name = make("th", "name");
      name.scope = "row";
      name.append(button);
      const all = source.picked + source.dropped;
      const bar = draw("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" });
      bar.append(
        draw("rect", { class: "bar-picked", x: 0, y: 0, height: 10, width: 100 * source.picked / most }),
        draw("rect", { class: "bar-dropped", x: 100 * source.picked / most, y: 0, height: 10, width: 100 * source.dropped / most }),
      );
      const cell = make("td");
      cell.append(bar);
      row.append(name, cell, make("td", "n", `${number(source.picked)} of ${number(all)}`));
    });
    at("sources").append(table, key());
  }

  function key() {
    const line = make("p", "quiet");
    line.append(make("span", "key picked", "picked"), make("span", "key", "dropped"));
    return line;
  }

  function histogram() {
    const box = at("histogram");
    box.replaceChildren();
    const score = data.scores[Number(at("figure-score").value)];
    if (!score) return;
    const bars = score.picked.length;
    const most = Math.max(...score.picked.map((count, place) => count + score.dropped[place]), 1);
    const label = (place) => score.values
      ? shown(score.values[place])
      : `${shown(score.edges[place])} to ${shown(score.edges[place + 1])}`;
    const svg = draw("svg", { viewBox: "0 0 400 150", role: "img", "aria-label": `Histogram of ${score.name} in the whole pool` });
    const width = 400 / Math.max(bars, 1);
    for (let place = 0; place < bars; place++) {
      const picked = 125 * score.picked[place] / most;
      const dropped = 125 * score.dropped[place] / most;
      const group = draw("g", {});
      const gap = Math.min(2, width / 10);
      group.append(
        draw("title", {}, `${label(place)}: ${number(score.picked[place])} picked, ${number(score.dropped[place])} dropped`),
        draw("rect", { class: "bar-picked", x: place * width + gap, y: 130 - picked, width: width - 2 * gap, height: picked }),
        draw("rect", { class: "bar-dropped", x: place * width + gap, y: 130 - picked - dropped, width: width - 2 * gap, height: dropped }),
      );
      svg.append(group);
      if (score.values) svg.append(draw("text", { class: "axis", x: (place + 0.5) * width, y: 145, "text-anchor": "middle" }, label(place)));
    }
    if (score.edges) {
      svg.append(
        draw("text", { class: "axis", x: 2, y: 145 }, shown(score.edges[0])),
        draw("text", { class: "axis", x: 398, y: 145, "text-anchor": "end" }, shown(score.edges[bars])),
      );
    }
    box.append(svg, key());
    const notes = [];
    if (score.missing) notes.push(`Samples without a value: ${number(score.missing)}.`);
    if (score.edges) notes.push("The outermost bars hold what lies beyond them.");
    if (notes.length) box.append(make("p", "quiet", notes.join(" ")));
  }

  function refusedTable() {
    const table = make("table");
    const rows = Object.entries(data.whole.by_reason);
    at("refused-figure").hidden = !rows.length;
    for (const [code, count] of rows) {
      const row = table.insertRow();
      const button = make("button", "link", code);
      button.type = "button";
      button.title = data.reasons[code] || "Show these records";
      button.addEventListener("click", () => { at("state").value = `why:${code}`; apply(); });
      const name = make("th", "name");
      name.scope = "row";
      name.append(button);
      row.append(name, make("td", "", data.reasons[code] || ""), make("td", "n", number(count)));
    }
    at("refused").append(table);
  }

  // ---- filters

  const capabilityScores = data.capabilities.map((name) => [name, places.get(`cap_${name}`)]).filter((pair) => pair[1] !== undefined);
  const distinct = (values) => [...new Set(values)].sort();
  const reasonOf = (item, name) => (item.reason && item.reason[name]) ?? (item.texts && item.texts[name]);
  const namedCapabilities = distinct(data.items.map((item) => reasonOf(item, "capability")).filter((value) => typeof value === "string"));
  const stylesOf = (item) => item.styles ?? (typeof reasonOf(item, "style") === "string" ? [reasonOf(item, "style")] : []);
  const styles = distinct(data.items.flatMap(stylesOf));

  function fill() {
    const any = ["", "any"];
    options(at("state"), [
      any, ["picked", "picked"], ["dropped", "dropped"], ["quarantined", "quarantined"],
      ...Object.keys(data.whole.by_reason).map((code) => [`why:${code}`, `quarantined: ${code}`]),
    ]);
    options(at("source"), [any, ...data.sources.map((source, place) => [String(place), source.name])]);
    options(at("capability"), [any, ...(capabilityScores.length ? capabilityScores.map((pair) => pair[0]) : namedCapabilities)
      .map((name) => [name, name])]);
    options(at("least"), ["1", "2", "3", "4", "5"].map((value) => [value, value]));
    options(at("style"), [any, ...styles.map((name) => [name, name])]);
    const scores = scoreNames.map((name, place) => [String(place), name]);
    options(at("score"), [["", "none"], ...scores]);
    options(at("figure-score"), scores);
    const found = [any];
    if (data.whole.copied) found.push(["copies", "with copies"], ["alone", "without copies"]);
    if (data.whole.leaked) found.push(["leaked", "leaked"], ["clean", "not leaked"]);
    found.push(["images", "with images"], ["words", "without images"], ["broken", "with a broken image"]);
    options(at("found"), found);
    options(at("order"), [["row", "as in the pool"], ["rank", "as picked"], ["low", "score, low first"], ["high", "score, high first"]]);
    const hide = (name, when) => document.querySelectorAll(name).forEach((node) => { node.hidden = when; });
    hide(".if-capability", !capabilityScores.length && !namedCapabilities.length);
    hide(".if-style", !styles.length);
    hide(".if-scores", !data.scores.length);
    at("least").parentElement.hidden = !capabilityScores.length;
    at("score-figure").hidden = !data.scores.length;
  }

  const searched = new Map();
  function textOf(item) {
    if (!searched.has(item)) {
      const words = [item.id, item.source, item.why, item.detail, ...item.talk.map((turn) => turn[1])];
      words.push(...Object.values(item.reason || {}), ...Object.values(item.texts || {}));
      searched.set(item, words.filter((word) => word !== null && word !== undefined).join("\n").toLowerCase());
    }
    return searched.get(item);
  }

  const value = (item, place) => (item.values ? item.values[place] : null);
  const isBroken = (item) => item.images.some((place) => data.pictures[place].reason && data.pictures[place].reason !== "page_full");
  const found = {
    copies: (item) => item.copies > 0,
    alone: (item) => item.state !== "quarantined" && !item.copies,
    leaked: (item) => Boolean(item.leaks),
    clean: (item) => item.state !== "quarantined" && !item.leaks,
    images: (item) => item.images.length > 0,
    words: (item) => item.images.length === 0,
    broken: isBroken,
  };

  function tests() {
    const list = [];
    const words = at("text").value.trim().toLowerCase();
    if (words) list.push((item) => textOf(item).includes(words));
    const state = at("state").value;
    if (state.startsWith("why:")) list.push((item) => item.why === state.slice(4));
    else if (state) list.push((item) => item.state === state);
    if (at("source").value) {
      const source = data.sources[Number(at("source").value)].name;
      list.push((item) => item.source === source);
    }
    const capability = at("capability").value;
    if (capability && capabilityScores.length) {
      const place = places.get(`cap_${capability}`);
      const least = Number(at("least").value);
      list.push((item) => value(item, place) !== null && value(item, place) >= least);
    } else if (capability) list.push((item) => reasonOf(item, "capability") === capability);
    const style = at("style").value;
    if (style) list.push((item) => stylesOf(item).includes(style));
    if (at("score").value) {
      const place = Number(at("score").value);
      const low = at("low").value === "" ? -Infinity : Number(at("low").value);
      const high = at("high").value === "" ? Infinity : Number(at("high").value);
      if (low > -Infinity || high < Infinity) {
        list.push((item) => value(item, place) !== null && value(item, place) >= low && value(item, place) <= high);
      }
    }
    if (at("found").value) list.push(found[at("found").value]);
    return list;
  }

  function ordered(items) {
    const order = at("order").value;
    if (order === "row") return items;
    const place = Number(at("score").value || at("figure-score").value || 0);
    const of = order === "rank" ? (item) => item.rank ?? null : (item) => value(item, place) ?? null;
    const sign = order === "high" ? -1 : 1;
    return [...items].sort((one, other) => {
      const [first, second] = [of(one), of(other)];
      if (first === null || second === null) return (first === null) - (second === null);
      return sign * (first - second);
    });
  }

  // ---- the list

  const listed = data.items.filter((item) => !item.beside);
  let results = [];
  let page = 0;

  function apply() {
    const list = tests();
    results = ordered(listed.filter((item) => list.every((test) => test(item))));
    page = 0;
    show();
  }

  function show() {
    const pages = Math.max(Math.ceil(results.length / PAGE), 1);
    const first = page * PAGE;
    const range = results.length ? `, ${number(first + 1)} to ${number(Math.min(first + PAGE, results.length))} shown` : "";
    at("count").textContent = `${number(results.length)} of the ${number(listed.length)} samples and records on this page${range}`;
    at("list").replaceChildren(...results.slice(first, first + PAGE).map((item) => card(item, true)));
    for (const pager of document.querySelectorAll(".pager")) {
      const step = (label, by) => {
        const button = make("button", "", label);
        button.type = "button";
        button.disabled = page + by < 0 || page + by >= pages;
        button.addEventListener("click", () => { page += by; show(); at("results").focus(); });
        return button;
      };
      pager.hidden = pages === 1;
      pager.replaceChildren(step("Previous", -1), make("span", "", `page ${number(page + 1)} of ${number(pages)}`), step("Next", 1));
    }
  }

  let cards = 0;
  function card(item, withMore) {
    const node = make("article", item.state);
    const title = make("h3", "", item.id);
    title.id = `sample-${++cards}`;
    node.setAttribute("aria-labelledby", title.id);
    const head = make("div", "head");
    head.append(title, make("span", `badge ${item.state}`, item.state === "picked" ? `picked, no. ${number(item.rank + 1)}` : item.state));
    if (item.source) head.append(make("span", "quiet", item.source));
    if (item.copies) head.append(make("span", "badge", counted(item.copies, "copy", "copies")));
    if (item.leaks) head.append(make("span", "badge leaked", "leaked"));
    const brief = make("div", "brief");
    brief.append(...turns(item.talk.slice(0, item.talk.length > 2 && item.talk[0][0] === "system" ? 3 : 2)));
    node.append(head, pictures(item), brief, why(item));
    if (withMore) node.append(more(item, node, brief));
    return node;
  }

  function pictures(item) {
    const box = make("div", "pictures");
    for (const place of item.images) {
      const picture = data.pictures[place];
      if (picture.reason) {
        const told = make("div", "no-picture", `${picture.reason}: ${picture.detail}`);
        box.append(told);
        continue;
      }
      const scale = Math.min(1, 160 / Math.max(picture.width, picture.height));
      const figure = make("figure");
      const image = make("img");
      image.alt = `image of ${item.id}`;
      image.width = Math.max(1, Math.round(scale * picture.width));
      image.height = Math.max(1, Math.round(scale * picture.height));
      image.loading = "lazy";
      image.decoding = "async";
      image.src = `data:image/jpeg;base64,${picture.jpeg}`;
      figure.append(image, make("figcaption", "", `${picture.width} × ${picture.height}`));
      box.append(figure);
    }
    if (item.more_images) box.append(make("span", "quiet", `and ${number(item.more_images)} more`));
    box.hidden = !box.childElementCount;
    return box;
  }

  function turns(talk) {
    return talk.map(([speaker, text]) => {
      const line = make("p", "turn");
      line.append(make("b", "", `${speaker}: `), text);
      return line;
    });
  }

  const others = (item) => (byGroup.get(item.group) || []).filter((other) => other !== item);

  function why(item) {
    if (item.state === "quarantined") {
      const meaning = data.reasons[item.why];
      return make("p", "why", `${item.why}${meaning ? `, ${meaning}` : ""}. ${item.detail}`);
    }
    if (item.state === "dropped") {
      const instead = others(item).find((other) => other.state === "picked");
      return make("p", "why", instead ? `not picked, but its copy ${instead.id} is` : "not picked");
    }
    // The source stands above already.
    const told = Object.entries(item.reason).filter(([name, reason]) => name !== "source" || reason !== item.source);
    const reasons = told.map(([name, reason]) => `${name}: ${shown(reason)}`);
    return make("p", "why", reasons.length ? reasons.join(" · ") : "picked, without a reason of its own");
  }

  function more(item, node, brief) {
    const details = make("details");
    const near = others(item);
    details.append(make("summary", "", item.why ? "Whole record" : near.length ? "Whole sample, scores, copies" : "Whole sample, scores"));
    details.addEventListener("toggle", () => {
      node.classList.toggle("open", details.open);
      brief.hidden = details.open;
      if (details.open && details.childElementCount === 1) details.append(everything(item, near));
    });
    return details;
  }

  function everything(item, near) {
    const box = make("div");
    const parts = make("div", "parts");
    const own = make("div");
    own.append(...turns(item.talk));
    if (item.cut) own.append(make("p", "quiet", `${number(item.cut)} more characters are not on this page.`));
    if (item.place) own.append(make("p", "quiet", item.place));
    for (const leak of item.leaks || []) {
      own.append(make("p", "why", `leak of ${shown(leak.benchmark)}, item ${shown(leak.item)}: ${shown(leak.kind)}. ${shown(leak.detail)}`));
    }
    const facts = [["row", item.row], ...Object.entries(item.texts || {})];
    if (item.styles) facts.push(["styles", item.styles.join(", ")]);
    (item.values || []).forEach((score, place) => facts.push([scoreNames[place], score]));
    parts.append(own);
    if (item.copies) parts.append(copies(item, near));
    box.append(parts);
    if (item.row !== undefined) {
      const list = make("ul", "values");
      list.append(...facts.map(([name, fact]) => make("li", "", `${name}: ${shown(fact)}`)));
      box.append(make("h3", "", "Scores and columns"), list);
    }
    return box;
  }

  function copies(item, near) {
    const box = make("div", "copies");
    const kind = item.kind ? ` (${item.kind}${item.first ? ", the first of its group" : ""})` : "";
    box.append(make("h3", "", `Copies, ${number(near.length)} of ${number(item.copies)}${kind}`));
    for (const other of near) {
      const copy = card(other, false);
      if (other.kind) copy.append(make("p", "why", `${other.kind}${other.first ? ", the first of the group" : ""}`));
      box.append(copy);
    }
    return box;
  }

  // ---- start

  tellCounts();
  fill();
  sourceTable();
  refusedTable();
  histogram();
  at("figure-score").addEventListener("change", histogram);
  at("score").addEventListener("change", () => {
    if (at("score").value) { at("figure-score").value = at("score").value; histogram(); }
  });
  // Not on "change" too: leaving the text field for a button would replace that button under the pointer.
  at("form").addEventListener("input", apply);
  at("form").addEventListener("submit", (event) => event.preventDefault());
  at("form").addEventListener("reset", () => setTimeout(apply));
  if (window.matchMedia("(max-width: 40rem)").matches) at("filters").open = false;
  apply();
})();
