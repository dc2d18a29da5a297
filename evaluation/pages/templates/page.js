"use strict";
// Model text is inserted only through textContent; the page's policy forbids other ways.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const PAGE = 20;
  const fields = { run: at("f-run"), benchmark: at("f-benchmark"), problem: at("f-problem"), verdict: at("f-verdict") };
  const text = at("f-text"), list = at("list"), count = at("count"), more = at("more"), words = at("cell-words");
  let found = [], shown = 0;

  function make(tag, className, content) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (content !== undefined) element.textContent = content;
    return element;
  }

  // Replaces characters that hide or reverse text by their names; joiners within emoji and scripts stay.
  function visible(value) {
    return String(value)
      .replace(/[\u0000-\u0008\u000b\u000c\u000e-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
      .replace(/\u007f/g, "\u2421")
      .replace(/[\u0080-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g,
        (c) => "\u27e8U+" + c.charCodeAt(0).toString(16).toUpperCase().padStart(4, "0") + "\u27e9");
  }

  function fill(select, all, pairs) {
    const old = select.value;
    select.replaceChildren(...[["", all], ...pairs].map(([value, label]) => {
      const option = make("option", "", visible(label));
      option.value = value;
      return option;
    }));
    if (pairs.some(([value]) => value === old)) select.value = old;
  }

  const unique = (values) => [...new Set(values)];
  const verdict = (reason) => reason.replace("_", " ");

  function fillProblems() {
    const chosen = fields.benchmark.value;
    const rows = data.problems.filter((p) => !chosen || p.benchmark === chosen);
    fill(fields.problem, "all", unique(rows.map((p) => JSON.stringify([p.benchmark, p.id]))).map((key) => [key, JSON.parse(key)[1]]));
  }

  function setUp() {
    fill(fields.run, "all", data.runs.map((label, index) => [String(index), label]));
    fill(fields.benchmark, "all", unique(data.problems.map((p) => p.benchmark)).map((b) => [b, b]));
    const reasons = unique(data.samples.map((s) => s.reason));
    const order = Object.keys(data.verdicts);
    reasons.sort((a, b) => order.indexOf(a) - order.indexOf(b));
    fill(fields.verdict, "all", [["!", "not correct"], ...reasons.map((r) => [r, verdict(r)])]);
    fillProblems();
    at("filters").hidden = false;
  }

  function matches(sample, wanted) {
    const problem = data.problems[sample.problem];
    return (!fields.run.value || String(sample.run) === fields.run.value)
      && (!fields.benchmark.value || problem.benchmark === fields.benchmark.value)
      && (!fields.problem.value || JSON.stringify([problem.benchmark, problem.id]) === fields.problem.value)
      && (!fields.verdict.value || (fields.verdict.value === "!" ? !sample.correct : sample.reason === fields.verdict.value))
      && (!wanted || [sample.text, sample.extracted || "", problem.id].some((t) => t.toLowerCase().includes(wanted)));
  }

  function apply() {
    const wanted = text.value.toLowerCase();
    found = data.samples.filter((sample) => matches(sample, wanted));
    shown = 0;
    list.replaceChildren();
    showMore();
  }

  function showMore() {
    list.append(...found.slice(shown, shown + PAGE).map(entry));
    shown = Math.min(found.length, shown + PAGE);
    count.textContent = `${found.length.toLocaleString("en")} of ${data.samples.length.toLocaleString("en")} samples`
      + (shown < found.length ? `, the first ${shown} shown` : "");
    more.hidden = shown >= found.length;
  }

  function entry(sample) {
    const problem = data.problems[sample.problem];
    const box = make("details", "sample"), line = make("summary");
    line.append(
      make("span", "verdict-word" + (sample.correct ? " correct" : ""), verdict(sample.reason)),
      make("bdi", "", visible(problem.id)),
      make("span", "quiet", `sample ${sample.sample}`));
    if (data.runs.length > 1) line.append(make("bdi", "quiet", visible(data.runs[sample.run])));
    line.append(make("bdi", "answer", sample.extracted === null ? "no answer" : short(visible(sample.extracted))));
    box.append(line);
    box.addEventListener("toggle", () => { if (box.open && box.children.length === 1) box.append(body(sample, problem)); });
    return box;
  }

  const short = (value) => (value.length > 60 ? value.slice(0, 60) + "…" : value);

  function body(sample, problem) {
    const whole = make("div", "body"), rows = make("dl");
    const add = (name, value) => rows.append(make("dt", "", name), make("dd", "", value));
    add("extracted answer", sample.extracted === null ? "none" : visible(sample.extracted));
    add(problem.golds.length > 1 ? "accepted answers" : "gold answer", problem.golds.map(visible).join("   or   "));
    add("verdict", `${verdict(sample.reason)}: ${data.verdicts[sample.reason] || "see graded.jsonl"}`);
    const line = sample.strict_extracted === null ? "no answer line near the end" : visible(sample.strict_extracted);
    add("strict", `${sample.strict ? "correct" : "not correct"}: ${line}`);
    add("tokens", `${sample.tokens.toLocaleString("en")}, finish reason ${sample.finish_reason}, seed ${sample.seed}`);
    const prompt = make("details"), title = make("summary", "quiet", "Prompt");
    prompt.append(title, make("pre", "", visible(problem.prompt)));
    whole.append(rows, prompt, make("pre", "response", visible(sample.text)));
    return whole;
  }

  function name(cell) { words.textContent = visible(cell.title); }

  function pick(cell) {
    const pressed = document.querySelector('.cell[aria-pressed="true"]');
    if (pressed) pressed.removeAttribute("aria-pressed");
    cell.setAttribute("aria-pressed", "true");
    const run = data.runs.indexOf(cell.dataset.r);
    fields.run.value = run < 0 ? "" : String(run);
    fields.benchmark.value = cell.dataset.b;
    fillProblems();
    fields.problem.value = JSON.stringify([cell.dataset.b, cell.dataset.p]);
    fields.verdict.value = "";
    text.value = "";
    apply();
    name(cell);
    const link = make("a", "", run < 0 ? "Samples of this problem from other runs" : "Its samples");
    link.href = "#samples";
    words.append(" ", link);
  }

  setUp();
  apply();
  fields.benchmark.addEventListener("change", fillProblems);
  for (const field of Object.values(fields)) field.addEventListener("change", apply);
  let timer;
  text.addEventListener("input", () => { clearTimeout(timer); timer = setTimeout(apply, 150); });
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("filters").addEventListener("reset", () => setTimeout(() => { fillProblems(); apply(); }));
  more.addEventListener("click", showMore);
  const problems = at("problems");
  problems.addEventListener("click", (event) => { const cell = event.target.closest("button.cell"); if (cell) pick(cell); });
  problems.addEventListener("pointerover", (event) => {
    const cell = event.target.closest(".cell");
    if (cell && event.pointerType === "mouse") name(cell);
  });
  problems.addEventListener("focusin", (event) => {
    const cell = event.target.closest("button.cell");
    if (cell && cell.matches(":focus-visible")) name(cell);
  });
})();
