// One expression: picture, ground truth, distractors, and every model's mask.

import { address, el, get, link, percent, say } from "./common.js";
import { clear, COLOURS, decode, load, paint } from "./draw.js";

export async function showCase(root, session, parameters, isCurrent) {
  const { n, ref_id, sent_id, from, targets, ...filter } = parameters;
  const view = from ?? (session.datasets.some((dataset) => dataset.sources.length) ? "compare" : "browse");
  const listed = { ...filter, targets };
  const one = await get("/api/expression", { dataset: filter.dataset, ref_id, sent_id });
  const picture = await load(address("/api/image", { dataset: one.dataset, image_id: one.image.id, side: 720 }));
  if (!isCurrent()) return;
  const target = decode(one.target);
  const distractors = one.distractors.map(decode);

  function figure(title, note, draw) {
    const canvas = el("canvas", { role: "img", "aria-label": `${title} for “${one.text}”` });
    const context = clear(canvas, picture.naturalWidth, picture.naturalHeight);
    context.drawImage(picture, 0, 0);
    draw(context);
    canvas.className = "chart";
    return el("figure", { className: "card" }, el("figcaption", {}, el("strong", {}, title), " ", el("span", { className: "soft" }, note)), canvas);
  }
  const truth = figure("Ground truth", `${distractors.length} distractors`, (context) => {
    distractors.forEach((mask) => paint(context, mask, COLOURS.distractor));
    paint(context, target, COLOURS.target);
  });
  const models = one.sources.map(({ name, segmentation, measure, problem }) => {
    const note = measure
      ? `IoU ${percent(measure.iou)} %${measure.nta === null ? "" : `, NTA mass ${percent(measure.nta)} %`}${measure.identity_error ? ", takes another object" : ""}`
      : "no measurement";
    return figure(name, segmentation ? note : problem ?? `${note}; no mask is stored`, (context) => {
      paint(context, target, COLOURS.target, { fill: false });
      if (segmentation) paint(context, decode(segmentation), COLOURS.prediction);
    });
  });
  const heading = el("h2", { className: "expression", dir: "auto", tabIndex: -1 }, one.text);
  const others = one.expressions.filter((other) => String(other.sent_id) !== String(one.sent_id));
  root.append(
    heading,
    el("p", { className: "soft" }, [one.dataset, one.split, one.category, one.flavour, one.place && "words of place", one.image.name, `ref_id ${one.ref_id}, sent_id ${one.sent_id}`].filter(Boolean).join(", ")),
    el("p", {}, ...["prediction", "target", "distractor"].flatMap((kind) => [el("span", { className: `key ${kind}` }), `${kind}  `])),
    el("div", { className: "cards" }, truth, ...models),
    others.length && el("p", {}, "Other expressions of this object: ", ...others.flatMap((other, index) => [index ? ", " : "",
      el("a", { dir: "auto", href: link("case", { ...listed, from: view, n, dataset: one.dataset, ref_id: one.ref_id, sent_id: other.sent_id }) }, other.text)])),
    el("div", { className: "row" },
      session.models.length && el("a", { href: link("try", { dataset: one.dataset, ref_id: one.ref_id, sent_id: one.sent_id }) }, "Try it"),
      n !== undefined && el("button", { type: "button", onclick: () => step(-1) }, "Previous (←)"),
      n !== undefined && el("button", { type: "button", onclick: () => step(1) }, "Next (→)"),
      el("a", { href: link(view, { ...listed, page: pageOf(n) }) }, "Back to the list"),
    ),
  );

  heading.focus();
  // The list leads back to this row.
  sessionStorage.setItem("seen", `${one.ref_id} ${one.sent_id}`);

  async function step(by) {
    const to = Number(n) + by;
    if (n === undefined || to < 0) return;
    try {
      const found = await get("/api/rows", { ...filter, page: to, size: 1 });
      const [row] = found.rows;
      if (!row) return say("That was the last one.");
      location.hash = link("case", { ...listed, from: view, n: to, ref_id: row.ref_id, sent_id: row.sent_id }).slice(1);
    } catch (error) {
      say(error.message, true);
    }
  }
  function pressed(event) {
    if (event.target.closest("input, select, textarea") || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  }
  addEventListener("keydown", pressed);
  return () => removeEventListener("keydown", pressed);
}

const pageOf = (n) => (n === undefined ? undefined : Math.floor(Number(n) / 48) || undefined);
