// Rating page: one item at a time, answers kept in this browser, a CSV at the end. No request is made.
const store = "vislex-judge-" + PAGE.page;
let saved = {};
try { saved = JSON.parse(localStorage.getItem(store)) || {}; } catch (error) { saved = {}; }
const answers = saved.answers || {};
let rater = saved.rater || "";
let place = 0;
const questions = Object.keys(PAGE.questions);
const root = document.getElementById("judge");

function element(tag, attributes, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value); else node.setAttribute(name, value);
  }
  for (const child of children) node.append(child);
  return node;
}
function keep() { try { localStorage.setItem(store, JSON.stringify({ answers, rater })); } catch (error) { /* private mode */ } }
function complete(item) { return questions.every((question) => (answers[item] || {})[question]); }
function answer(question, choice) {
  const item = PAGE.items[place].item;
  answers[item] = { ...(answers[item] || {}), [question]: choice };
  keep();
  draw();
}
function move(step) { place = Math.min(PAGE.items.length - 1, Math.max(0, place + step)); draw(); }
function cell(value) { const text = String(value); return /[",\n\r]/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text; }
function download() {
  const lines = [PAGE.columns.join(",")];
  for (const { item } of PAGE.items) {
    if (answers[item]) lines.push([PAGE.page, item, rater, ...questions.map((q) => answers[item][q] || "")].map(cell).join(","));
  }
  const link = element("a", { href: URL.createObjectURL(new Blob([lines.join("\n") + "\n"], { type: "text/csv" })),
    download: "ratings-" + PAGE.page + ".csv" });
  link.click();
}
function draw() {
  const item = PAGE.items[place];
  const done = PAGE.items.filter((entry) => complete(entry.item)).length;
  const given = answers[item.item] || {};
  const style = "border:1px solid var(--line);border-radius:8px;padding:8px 18px;cursor:pointer;margin-right:8px;";
  const caption = (side) => element("div", { class: "card", style: "margin:0;flex:1;min-width:240px" },
    element("h3", {}, "Caption " + side), element("div", { style: "font-size:18px" }, item[side] || "(empty)"));
  const rows = questions.map((question) => element("div", { style: "margin-top:16px" },
    element("div", { style: "margin-bottom:6px" }, PAGE.questions[question]),
    ...PAGE.choices.map((choice) => element("button", { onclick: () => answer(question, choice),
      "aria-pressed": given[question] === choice,
      style: style + (given[question] === choice ? "background:var(--accent);color:var(--surface)"
        : "background:var(--chip);color:var(--ink)") }, choice === "equal" ? "about equal" : choice))));
  root.replaceChildren(
    element("div", { class: "chips", style: "margin-bottom:16px" },
      element("span", { class: "chip" }, "item " + (place + 1) + " of " + PAGE.items.length),
      element("span", { class: "chip" }, done + " answered"),
      element("label", { class: "chip" }, "your name or number ", element("input", { value: rater, size: 12,
        oninput: (event) => { rater = event.target.value; keep(); } }))),
    element("div", { style: "display:flex;gap:16px;flex-wrap:wrap;align-items:stretch" },
      element("img", { src: item.image, alt: "picture " + (place + 1),
        style: "width:260px;height:260px;object-fit:contain;border-radius:12px;border:1px solid var(--line);background:#fff" }),
      caption("A"), caption("B")),
    ...rows,
    element("div", { style: "margin-top:28px" },
      element("button", { onclick: () => move(-1), style: style + "background:var(--surface);color:var(--ink)" }, "back"),
      element("button", { onclick: () => move(1), style: style + "background:var(--surface);color:var(--ink)" }, "next"),
      element("button", { onclick: download, style: style + "background:var(--surface);color:var(--ink)" },
        "download answers (CSV)")));
}
document.addEventListener("keydown", (event) => {
  if (event.target.tagName === "INPUT") return;
  if (event.key === "ArrowRight") move(1);
  if (event.key === "ArrowLeft") move(-1);
});
draw();
