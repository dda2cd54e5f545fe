"use strict";
(() => {
  const room = document.getElementById("tokens");
  if (!room) return;
  const part = (name) => room.querySelector(`[data-part="${name}"]`);
  const { edges, texts, largest, answers } = JSON.parse(document.getElementById("token-index").textContent);
  const text = part("text"), tip = document.getElementById("tip"), slider = part("threshold");
  const views = [...room.querySelectorAll("input[name=view]")];
  const NONE = 0xffffffff;
  const thresholds = { entropy: 0, credit: 0, advantage: 0, weight: 0 };
  let chosen = [], place = -1, data = null, spans = [], order = [], cut = 0, current = null, asked = 0;

  // --- numbers of one answer: unpacked when it is shown, and only then ---

  const unpack = async (number) => {
    const { width, columns, constants, data: packed } =
      JSON.parse(document.getElementById(`answer-${number}`).textContent);
    const bytes = Uint8Array.from(atob(packed), (char) => char.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    const raw = await new Response(stream).arrayBuffer();
    const kinds = { Float32: Float32Array, Uint32: Uint32Array, Uint8: Uint8Array };
    const found = { width };
    let at = 0;
    for (const [name, kind, length] of columns) {
      found[name] = new kinds[kind](raw, at, length);
      at += found[name].byteLength;
    }
    for (const [name, [value, length]] of Object.entries(constants)) found[name] = new Float64Array(length).fill(value);
    return found;
  };

  // --- colour: every token gets its class of every view once; a switch changes one attribute of the parent ---

  const view = () => views.find((one) => one.checked).value;
  const thirds = (value, most) => Math.min(3, 1 + Math.floor((3 * Math.abs(value) / most) * (1 - 1e-6)));
  const classes = (index) => {
    const names = ["t"];
    const known = (name) => data[name] && Number.isFinite(data[name][index]);
    if (known("entropy")) {
      const entropy = data.entropy[index];
      // 32-bit numbers just below a border are the border itself, as the file had it.
      names.push(`e${edges.filter((edge) => entropy >= Math.fround(edge)).length}`);
    }
    for (const [name, letter] of [["credit", "c"], ["advantage", "a"], ["weight", "w"]]) {
      if (!known(name) || data[name][index] === 0 || !(largest[name] > 0)) continue;
      names.push(`${letter}${data[name][index] > 0 ? "p" : "n"}${thirds(data[name][index], largest[name])}`);
    }
    if (known("credit") ? data.credit[index] !== 0 : data.kept && data.kept[index]) names.push("k");
    return names.join(" ");
  };

  // --- threshold: only tokens that cross it are touched, found in an order sorted once ---

  const size = (index) => {
    const value = data[view()] ? Math.abs(data[view()][index]) : NaN;
    return Number.isNaN(value) ? -1 : value;
  };
  const sort = () => {
    for (const span of spans) span.classList.remove("off");
    order = spans.map((_, index) => index).sort((one, other) => size(one) - size(other));
    cut = 0;
    const most = largest[view()] || 0;
    slider.disabled = !data[view()];
    part("top").disabled = !data[view()];
    slider.max = most;
    slider.step = most > 0 ? Number((most / 200).toPrecision(1)) : 0.01;
    slider.value = thresholds[view()];
    apply();
  };
  const apply = () => {
    const threshold = thresholds[view()];
    let low = 0, high = threshold > 0 ? order.length : 0;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (size(order[middle]) < threshold) low = middle + 1; else high = middle;
    }
    for (; cut < low; cut++) spans[order[cut]].classList.add("off");
    for (; cut > low; cut--) spans[order[cut - 1]].classList.remove("off");
    const count = order.length - cut;
    const unit = view() === "entropy" ? " nats" : "";
    const said = data[view()]
      ? `≥ ${threshold.toFixed(3)}${unit}: ${count.toLocaleString("en")} of ${order.length.toLocaleString("en")} tokens` +
        ` (${(100 * count / Math.max(1, order.length)).toFixed(1)} %)`
      : "not recorded for this answer";
    part("share").textContent = said;
    slider.setAttribute("aria-valuetext", said);
  };
  const isAbove = (index) => data[view()] && size(index) >= Math.max(thresholds[view()], Number.MIN_VALUE);

  // --- one answer ---

  const line = (parent, kind, label, value) => {
    const box = document.createElement(kind), name = document.createElement("span"), said = document.createElement("bdi");
    name.className = "label";
    name.textContent = label + " ";
    said.textContent = value;
    box.append(name, said);
    parent.append(box);
  };
  const draw = async () => {
    const number = chosen[place], ticket = ++asked;
    select(null);
    part("position").textContent = number === undefined ? "no answer" : `${place + 1} of ${chosen.length}`;
    part("previous").disabled = place <= 0;
    part("next").disabled = place >= chosen.length - 1;
    room.classList.toggle("empty", number === undefined);
    if (number === undefined) { data = {}; spans = []; text.replaceChildren(); sort(); return; }
    const found = await unpack(number);
    if (ticket !== asked) return; // a later answer was asked for meanwhile
    data = found;
    const about = answers[number];
    const mark = { right: "✓ ", wrong: "✗ " }[about.verdict] || "? ";
    part("verdict").textContent = mark + about.verdict;
    part("verdict").className = `verdict verdict-${["right", "wrong"].includes(about.verdict) ? about.verdict : "other"}`;
    part("facts").replaceChildren();
    line(part("facts"), "span", "", about.source);
    for (const [name, value] of about.facts) line(part("facts"), "span", name, value);
    part("prompt").replaceChildren();
    line(part("prompt"), "span", "Prompt", about.prompt || "not recorded");
    if (about.reference) line(part("prompt"), "span", "Reference", about.reference);
    part("hidden").textContent = about.hidden ? `… and ${about.hidden.toLocaleString("en")} more tokens` : "";
    room.classList.toggle("bound", about.bound);
    spans = Array.from(data.text, (code, index) => {
      const span = document.createElement("span");
      span.className = classes(index);
      span.textContent = texts[code];
      span.place = index;
      return span;
    });
    text.replaceChildren(...spans);
    text.setAttribute("aria-label", `Answer of ${spans.length} tokens, ${about.verdict}; arrow keys move from token to token`);
    text.scrollTop = 0;
    sort();
    room.dataset.shown = number;
  };
  const go = (to) => {
    if (to < 0 || to >= chosen.length || to === place) return;
    place = to;
    draw();
  };
  const filter = () => {
    const keep = chosen[place], verdict = part("filter").value, source = part("source").value;
    chosen = answers.flatMap((one, number) =>
      (!verdict || one.verdict === verdict) && (!source || one.source === source) ? [number] : []);
    place = Math.max(0, chosen.indexOf(keep));
    draw();
  };

  // --- what hovering and the keyboard say of one token ---

  const digits = (name, index, count, sign, unit = "") => {
    const value = data[name] ? data[name][index] : NaN;
    if (!Number.isFinite(value)) return "not recorded";
    return (sign && value > 0 ? "+" : "") + value.toFixed(count) + unit;
  };
  const percent = (logp) => Number.isFinite(logp) ? `${(100 * Math.exp(Math.min(0, logp))).toFixed(2)} %` : "not recorded";
  const say = (index) => {
    tip.replaceChildren();
    const title = document.createElement("p");
    title.className = "tip-title";
    title.textContent = `token ${index + 1} “${texts[data.text[index]].trim()}”`;
    const list = document.createElement("dl");
    const rows = [
      ["probability", data.logp ? percent(data.logp[index]) : "not recorded"],
      [room.classList.contains("bound") ? "entropy, at least" : "entropy", digits("entropy", index, 3, false, " nats")],
      ["rank", data.rank && data.rank[index] ? String(data.rank[index]) : "not recorded"],
      ["credit", digits("credit", index, 3, true)],
      ["advantage", digits("advantage", index, 3, true)],
      ["weight", digits("weight", index, 3)],
    ];
    if (data.kept) rows.push(["in the loss", data.kept[index] ? "yes" : "no"]);
    for (const [name, value] of rows) {
      if (value === "not recorded") continue;
      const term = document.createElement("dt"), said = document.createElement("dd");
      term.textContent = name;
      said.textContent = value;
      list.append(term, said);
    }
    tip.append(title, list, alternatives(index));
  };
  const alternatives = (index) => {
    const box = document.createElement("ol");
    for (let k = 0; data.width && k < data.width; k++) {
      const code = data.top_text[index * data.width + k], logp = data.top_logp[index * data.width + k];
      if (code === NONE) break;
      const row = document.createElement("li"), bar = document.createElement("i"), word = document.createElement("bdi");
      bar.style.width = `${(100 * Math.exp(Math.min(0, logp))) || 0}%`;
      word.textContent = texts[code];
      row.append(word, " ", percent(logp), bar);
      if (code === data.text[index]) row.className = "taken";
      box.append(row);
    }
    return box.childElementCount ? box : "";
  };
  const show = (token) => {
    say(token.place);
    tip.hidden = false;
    // The first of the lines a long token spans.
    const at = token.getClientRects()[0] || token.getBoundingClientRect();
    const left = Math.min(at.left, document.documentElement.clientWidth - tip.offsetWidth - 8);
    // Above, where the text has been read already, unless that would cover the controls.
    const above = at.top - tip.offsetHeight - 8;
    tip.style.left = `${Math.max(8, left)}px`;
    tip.style.top = `${above > 8 ? above : at.bottom + 8}px`;
  };
  const hide = () => { tip.hidden = true; };
  const select = (token) => {
    if (current) current.classList.remove("at");
    current = token || null;
    if (!current) { hide(); return; }
    current.classList.add("at");
    current.scrollIntoView({ block: "nearest" });
    show(current);
  };

  // --- events ---

  text.addEventListener("mouseover", (event) => {
    const token = event.target.closest(".t");
    if (token) show(token);
  });
  text.addEventListener("mouseleave", () => { if (current) show(current); else hide(); });
  text.addEventListener("focus", () => { if (!current && text.matches(":focus-visible")) select(spans[0]); });
  text.addEventListener("click", (event) => {
    const token = event.target.closest(".t");
    if (token) select(token);
  });
  text.addEventListener("blur", () => select(null));
  text.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || !spans.length) return;
    const here = current ? current.place : -1;
    const seek = (step) => {
      let at = here + step;
      while (at >= 0 && at < spans.length && !isAbove(at)) at += step;
      return at >= 0 && at < spans.length ? at : here;
    };
    const to = {
      ArrowRight: () => here + 1, ArrowLeft: () => here - 1, Home: () => 0, End: () => spans.length - 1,
      f: () => seek(1), F: () => seek(-1),
    }[event.key];
    if (event.key === "Escape") hide();
    if (!to) return;
    event.preventDefault();
    select(spans[Math.max(0, Math.min(spans.length - 1, to()))]);
  });
  room.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
    if (event.key === "n") go(place + 1);
    if (event.key === "p") go(place - 1);
  });
  addEventListener("scroll", () => { if (current && !tip.hidden) show(current); else hide(); }, { passive: true });
  part("previous").addEventListener("click", () => go(place - 1));
  part("next").addEventListener("click", () => go(place + 1));
  part("filter").addEventListener("change", filter);
  part("source").addEventListener("change", filter);
  slider.addEventListener("input", () => { thresholds[view()] = Number(slider.value); apply(); });
  part("top").addEventListener("click", () => {
    const known = order.filter((index) => size(index) >= 0);
    thresholds[view()] = size(known[Math.max(0, known.length - Math.ceil(0.2 * known.length))]) || 0;
    slider.value = thresholds[view()];
    apply();
  });
  for (const one of views) {
    one.disabled = !(largest[one.value] > 0);
    one.addEventListener("change", () => { room.dataset.view = view(); sort(); });
  }
  (views.find((one) => one.checked && !one.disabled) || views.find((one) => !one.disabled) || views[0]).checked = true;
  room.dataset.view = view();
  filter();
})();
