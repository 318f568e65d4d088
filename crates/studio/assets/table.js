// Browse and Compare: expressions by page, filtered and sorted on the server. All filters are in the address.

import { address, el, get, later, link, note, percent, say } from "./common.js";
import { clear, COLOURS, decode, load, paint } from "./draw.js";

const NUMBERS = [
  ["distractors_min", "Distractors from"], ["distractors_max", "to"],
  ["area_min", "Target % from"], ["area_max", "to"],
];
const OF_PREDICTIONS = [["iou_min", "IoU % from"], ["iou_max", "to"], ["nta_min", "NTA mass % from"], ["nta_max", "to"]];

export async function showTable(view, root, session, parameters, isCurrent) {
  if (!session.datasets.length) {
    root.append(el("p", {}, "No data set is open: start the program with --dataset NAME."));
    return;
  }
  const dataset = session.datasets.find((one) => one.name === parameters.dataset) ?? session.datasets[0];
  const compares = view === "compare";
  if (compares && !dataset.sources.length) {
    root.append(el("p", {}, "There are no predictions about this data set: start the program with --predictions FILE or --run DIR."));
  }
  const chosen = { ...parameters };
  if (compares && !chosen.sort && dataset.sources.length) {
    // What is worth a look comes first.
    Object.assign(chosen, dataset.sources.length > 1 ? { sort: "gap", desc: "true" } : { sort: "iou" });
    chosen.predicted ??= dataset.sources.some((source) => source.masks) ? "masks" : "yes";
  }
  const fields = filterFields(session, dataset, compares, chosen, changed);
  const list = el("div");
  const pages = el("div", { className: "row" });
  // In a narrow window the filters would push the list out of sight.
  const filters = el("details", { open: innerWidth > 760 }, el("summary", {}, "Filters"), fields);
  root.append(el("div", { className: "columns" }, filters, el("div", {}, pages, list)));
  let timer = 0;
  let turned = -1;
  const refresh = later(fetchRows, 200);

  function changed(name, value) {
    if (value === "") delete chosen[name];
    else chosen[name] = value;
    if (name === "dataset") {
      location.hash = link(view, { dataset: value }).slice(1);
      return;
    }
    if (name !== "page") delete chosen.page;
    note(view, chosen);
    refresh();
  }

  async function fetchRows() {
    clearTimeout(timer);
    try {
      const { targets, ...filter } = chosen;
      const found = await get("/api/rows", filter);
      if (!isCurrent()) return;
      const last = Math.max(0, Math.ceil(found.total / found.size) - 1);
      const page = Number(chosen.page ?? 0);
      if (page > last) return changed("page", last ? String(last) : "");
      const turn = (to, button) => {
        turned = button;
        changed("page", to ? String(to) : "");
      };
      pages.replaceChildren(
        el("strong", {}, `${found.total.toLocaleString("en")} expressions`),
        el("button", { type: "button", disabled: page === 0, onclick: () => turn(page - 1, 1) }, "Previous"),
        el("span", {}, `page ${page + 1} of ${last + 1}`),
        el("button", { type: "button", disabled: page >= last, onclick: () => turn(page + 1, 3) }, "Next"),
      );
      // The keyboard stays where it was.
      pages.children[turned]?.focus();
      turned = -1;
      const start = page * found.size;
      const shown = { ...chosen, from: view };
      list.replaceChildren(compares ? table(found, shown, start) : grid(found, shown, start, targets === "yes"));
      const waiting = found.sources.filter((source) => source.done < source.total);
      const wantsAreas = chosen.sort === "area" || chosen.area_min || chosen.area_max;
      const problems = found.sources.filter((source) => source.problem).map((source) => source.problem);
      if (waiting.length) {
        say(`Measuring ${waiting.map((one) => `${one.name}: ${one.done} of ${one.total}`).join(", ")} …`);
        timer = setTimeout(fetchRows, 2000);
      } else if (wantsAreas && !found.areas) {
        say("Measuring the sizes of the targets …");
        timer = setTimeout(fetchRows, 1000);
      } else say(problems.join("; "), problems.length > 0);
    } catch (error) {
      if (isCurrent()) say(error.message, true);
    }
  }
  await fetchRows();
  const seen = list.querySelector(`[data-key="${sessionStorage.getItem("seen")}"]`);
  seen?.scrollIntoView({ block: "center" });
  seen?.focus({ preventScroll: true });
  sessionStorage.removeItem("seen");
  return () => clearTimeout(timer);
}

function filterFields(session, dataset, compares, chosen, changed) {
  const select = (name, label, values, empty = "all") => {
    const options = [el("option", { value: "" }, empty), ...values.map(([value, text]) => el("option", { value }, text))];
    const field = el("select", { name, onchange: () => changed(name, field.value) }, ...options);
    field.value = chosen[name] ?? "";
    return el("label", {}, label, field);
  };
  const same = (values) => values.map((value) => [value, value]);
  const number = ([name, label]) => {
    const field = el("input", { type: "number", min: 0, name, step: name.startsWith("distractors") ? 1 : "any", oninput: () => changed(name, field.value) });
    field.value = chosen[name] ?? "";
    return el("label", {}, label, field);
  };
  const text = el("input", { type: "search", dir: "auto", name: "text", oninput: () => changed("text", text.value) });
  text.value = chosen.text ?? "";
  const pairs = (list) => el("div", { className: "pair" }, ...list.map(number));
  const yesNo = [["yes", "yes"], ["no", "no"]];
  const sorts = [["iou", "IoU"], ["nta", "NTA mass"], ["gap", "difference between models"], ["area", "size of the target"]];
  const targets = el("input", { type: "checkbox", onchange: () => changed("targets", targets.checked ? "yes" : "") });
  targets.checked = chosen.targets === "yes";
  const data = el("select", { name: "dataset", onchange: () => changed("dataset", data.value) }, ...session.datasets.map((one) => el("option", { value: one.name }, one.name)));
  data.value = dataset.name;
  return el(
    "form",
    { className: "fields", onsubmit: (event) => event.preventDefault(), "aria-label": "Filters" },
    el("label", {}, "Data set", data),
    el("label", {}, "Words in the expression", text),
    select("split", "Split", same(dataset.splits)),
    select("category", "Category", same(dataset.categories)),
    dataset.flavours.length && select("flavour", "Flavour", same(dataset.flavours)),
    select("place", "Words of place", yesNo),
    pairs(NUMBERS),
    dataset.sources.length && select("source", "Predictions of", same(dataset.sources.map((source) => source.name)), "any"),
    dataset.sources.length && select("predicted", "Predicted", [["yes", "by some model"], ["masks", "with masks to see"]]),
    dataset.sources.length && pairs(OF_PREDICTIONS),
    dataset.sources.length && select("identity", "Takes another object", yesNo),
    select("sort", "Order", dataset.sources.length ? sorts : sorts.slice(3), "of the data set"),
    select("desc", "Direction", [["true", "largest first"]], "smallest first"),
    !compares && el("label", { className: "inline" }, targets, "Show targets and distractors"),
    el("p", { className: "soft" }, "The address holds all of this: copy it to share the view."),
  );
}

const caseOf = (found, row, shown, index) =>
  link("case", { ...shown, dataset: found.dataset, page: undefined, n: index, ref_id: row.ref_id, sent_id: row.sent_id });

const thumbnail = (found, row, side) => address("/api/image", { dataset: found.dataset, image_id: row.image_id, side });

function grid(found, filter, start, withTargets) {
  return el("div", { className: "grid" }, ...found.rows.map((row, index) => {
    const source = thumbnail(found, row, 240);
    const picture = withTargets
      ? el("div", { className: "thumb-stack" }, targetCanvas(found, row, source))
      : el("img", { className: "thumb", loading: "lazy", src: source, alt: `Picture for “${row.text}”` });
    return el(
      "a",
      { className: "card", href: caseOf(found, row, filter, start + index), "data-key": `${row.ref_id} ${row.sent_id}` },
      picture,
      el("p", { className: "expression", dir: "auto" }, row.text),
      el("p", { className: "soft" }, [row.split, row.category, `${row.n_distractors} distractors`].filter(Boolean).join(", ")),
    );
  }));
}

// A thumbnail with target and distractors, drawn once it is scrolled to.
function targetCanvas(found, row, source) {
  const canvas = el("canvas", { role: "img", "aria-label": `Target and distractors of “${row.text}”` });
  const seen = new IntersectionObserver(async ([entry]) => {
    if (!entry.isIntersecting) return;
    seen.disconnect();
    try {
      const [picture, one] = await Promise.all([load(source), get("/api/expression", { dataset: found.dataset, ref_id: row.ref_id, sent_id: row.sent_id })]);
      const context = clear(canvas, picture.naturalWidth, picture.naturalHeight);
      context.drawImage(picture, 0, 0);
      one.distractors.forEach((mask) => paint(context, decode(mask), COLOURS.distractor));
      paint(context, decode(one.target), COLOURS.target);
    } catch (error) {
      say(error.message, true);
    }
  });
  seen.observe(canvas);
  return canvas;
}

function table(found, filter, start) {
  const head = el("tr", {}, el("th", { scope: "col" }, "Picture"), el("th", { scope: "col", className: "text" }, "Expression"), el("th", { scope: "col" }, "Distractors"),
    ...found.sources.map((source) => el("th", { scope: "col" }, `${source.name}: IoU, NTA mass of ${source.of_probabilities ? "probabilities" : "masks"}`)));
  const rows = found.rows.map((row, index) => el(
    "tr",
    {},
    el("td", {}, el("img", { loading: "lazy", src: thumbnail(found, row, 240), alt: "" })),
    el("td", { className: "text" }, el("a", { className: "expression", dir: "auto", "data-key": `${row.ref_id} ${row.sent_id}`, href: caseOf(found, row, filter, start + index) }, row.text),
      el("div", { className: "soft" }, [row.split, row.category, row.flavour, row.place && "words of place"].filter(Boolean).join(", "))),
    el("td", {}, String(row.n_distractors)),
    ...row.measures.map(measureCell),
  ));
  const means = el("tr", {}, el("th", { scope: "row", colSpan: 3, className: "text" }, "Mean of all that fit"),
    ...found.means.map((mean) => el("td", {}, el("strong", {}, percent(mean.miou)),
      el("div", { className: "soft" }, `NTA ${percent(mean.nta)}, identity errors ${percent(mean.identity_errors)}, ${mean.n.toLocaleString("en")} predicted`))));
  return el("div", { className: "wide", tabIndex: 0, role: "region", "aria-label": "Expressions" }, el("table", {}, el("thead", {}, head), el("tbody", {}, ...rows), el("tfoot", {}, means)));
}

function measureCell(measure) {
  if (!measure) return el("td", {}, "–");
  const bar = el("span", { className: "bar" });
  bar.style.width = `${Math.round(60 * measure.iou)}px`;
  return el("td", {}, bar, percent(measure.iou), el("div", { className: measure.identity_error ? "wrong" : "soft" },
    measure.nta === null ? "" : `NTA ${percent(measure.nta)}`, measure.identity_error ? ", takes another" : ""));
}
