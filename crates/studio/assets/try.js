// A picture, an expression, a mask.

import { address, el, get, link, note, percent, say, send } from "./common.js";
import { clear, COLOURS, greyOf, heatLayer, load, paint } from "./draw.js";
import { showWhy } from "./why.js";

export async function showTry(root, session, parameters, isCurrent) {
  if (!session.models.length) {
    root.append(el("p", {}, "No model is loaded: start the program with --checkpoint FILE."));
    return;
  }
  // What is asked about: an uploaded file, the picture of an earlier answer, or a picture of a data set.
  const state = { file: null, picture: null, ref: null, ids: (parameters.ids ?? "").split(",").filter(Boolean) };
  if (parameters.ref_id !== undefined) state.ref = { dataset: parameters.dataset, ref_id: parameters.ref_id };
  const cards = el("div", { className: "cards" });
  const preview = el("img", { alt: "" });
  const name = el("span", { className: "soft" }, "Drop a picture here, or choose one:");
  const file = el("input", { type: "file", accept: "image/*", "aria-label": "Picture" });
  const expression = el("input", { type: "text", dir: "auto", required: true, placeholder: "second zebra from the right", maxLength: 1000 });
  expression.value = parameters.expression ?? "";
  const choices = session.models.map((model, index) =>
    el("input", { type: "checkbox", value: model.name, checked: index === 0 || state.ref !== null }),
  );
  const button = el("button", { type: "submit" }, "Segment");
  const drop = el("div", { className: "drop" }, name, file, preview);
  const form = el(
    "form",
    { className: "fields" },
    drop,
    el("label", {}, "Expression", expression),
    session.models.length > 1 &&
      el("fieldset", {}, el("legend", {}, "Checkpoints"), ...choices.map((box) => el("label", { className: "inline" }, box, box.value))),
    el("div", { className: "row" }, button, el("button", { type: "button", onclick: clearAll }, "Clear answers")),
    session.datasets.length && el("p", { className: "soft" }, "Or take a picture from ", el("a", { href: link("browse") }, "a data set"), "."),
  );
  const past = el("div");
  root.append(el("div", { className: "columns" }, el("div", {}, form, past), cards));

  function choose(chosen) {
    if (!chosen) return;
    say("");
    state.file = chosen;
    state.picture = state.ref = null;
    name.textContent = chosen.name;
    if (preview.src.startsWith("blob:")) URL.revokeObjectURL(preview.src);
    preview.src = URL.createObjectURL(chosen);
    preview.alt = `The chosen picture, ${chosen.name}`;
    expression.focus();
  }
  file.addEventListener("change", () => choose(file.files[0]));
  for (const type of ["dragenter", "dragover"]) {
    drop.addEventListener(type, (event) => {
      event.preventDefault();
      drop.classList.add("over");
    });
  }
  drop.addEventListener("dragleave", () => drop.classList.remove("over"));
  drop.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    file.value = "";
    choose(event.dataTransfer.files[0]);
  });

  function clearAll() {
    state.ids = [];
    cards.replaceChildren();
    note("try", {});
  }

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const names = choices.filter((box) => box.checked).map((box) => box.value);
    if (!state.file && !state.picture && !state.ref) return say("Choose a picture first.", true);
    if (!expression.value.trim()) return say("Type an expression first.", true);
    if (!names.length) return say("Choose a checkpoint first.", true);
    button.disabled = true;
    say("Segmenting …");
    const started = performance.now();
    // Another picture may be chosen before the answer is there.
    const asked = { ...state };
    const isSame = () => state.file === asked.file && state.ref === asked.ref;
    try {
      // The first stands on the left.
      for (const checkpoint of names.reverse()) {
        const body = new FormData();
        body.set("expression", expression.value);
        body.set("checkpoint", checkpoint);
        if (asked.ref) Object.entries(asked.ref).forEach(([key, value]) => value !== undefined && body.set(key, value));
        else if (asked.picture) body.set("picture", asked.picture);
        else body.set("image", asked.file, asked.file.name);
        const answer = await send("/api/predict", body);
        if (!isCurrent()) return;
        // The next expression is about the picture that is kept already.
        if (!asked.ref) asked.picture = answer.picture;
        if (isSame()) state.picture = asked.picture;
        state.ids.unshift(String(answer.id));
        cards.prepend(await card(answer, session));
        if (!isCurrent()) return;
      }
      note("try", { ids: state.ids.join(",") });
      say(`Done in ${((performance.now() - started) / 1000).toFixed(2)} s.`);
      await remember();
    } catch (error) {
      // The program was started anew, and keeps no pictures: the file is sent again.
      if (state.file) state.picture = null;
      if (isCurrent()) say(error.message, true);
    } finally {
      button.disabled = false;
    }
  });

  async function remember() {
    const answers = await get("/api/answers");
    const items = answers.slice(0, 30).map((answer) =>
      el("li", {}, el("a", { href: link("try", { ids: answer.id }), className: "expression", dir: "auto" }, answer.expression), el("span", { className: "soft" }, ` ${answer.image}${session.models.length > 1 ? `, ${answer.checkpoint}` : ""}`)),
    );
    past.replaceChildren(...(items.length ? [el("h3", {}, "History"), el("ul", {}, ...items)] : []));
  }

  if (state.ref) {
    const found = await get("/api/expression", { ...state.ref, sent_id: parameters.sent_id });
    preview.src = address("/api/image", { dataset: found.dataset, image_id: found.image.id, side: 240 });
    preview.alt = `Picture ${found.image.name}`;
    name.textContent = `${found.dataset}, ${found.image.name}`;
    if (!expression.value) expression.value = found.text;
  }
  for (const id of state.ids) {
    if (!isCurrent()) return;
    try {
      const answer = await get("/api/answer", { id });
      if (!state.picture && !state.ref) {
        state.picture = answer.picture;
        if (answer.ref_id !== undefined) state.ref = { dataset: answer.dataset, ref_id: answer.ref_id };
        preview.src = address("/api/answer/image", { id });
        preview.alt = `Picture ${answer.image}`;
        name.textContent = answer.image;
        expression.value = answer.expression;
      }
      cards.append(await card(answer, session));
    } catch (error) {
      say(error.message, true);
    }
  }
  await remember();
  expression.focus();
}

// The answer to one expression.
async function card(answer, session) {
  const { id } = answer;
  const model = session.models.find((one) => one.name === answer.checkpoint) ?? session.models[0];
  const [picture, grey] = await Promise.all([load(address("/api/answer/image", { id })), greyOf(address("/api/answer/map", { id, side: 1000 }))]);
  picture.alt = `The picture ${answer.image}`;
  // Of a large photo these are the sizes on the page; what is saved is made at full size.
  const { width, height } = grey;
  const canvas = el("canvas", { role: "img" });
  const slider = el("input", { type: "range", min: 0, max: 0.99, step: 0.01 });
  slider.value = answer.threshold ?? model.threshold;
  const shown = el("output");
  const facts = el("p", { className: "soft" });
  const options = Object.fromEntries(
    [["mask", true], ["outline", true], ["box", false], ["heat map", false]].map(([name, on]) => [name, el("input", { type: "checkbox", checked: on })]),
  );
  const links = ["mask PNG", "RLE", "overlay"].map((name) => el("a", { download: "" }, name));

  function draw() {
    const threshold = Number(slider.value);
    shown.value = threshold.toFixed(2);
    const mask = { width, height, data: new Uint8Array(width * height) };
    let area = 0;
    const least = Math.round(100 * threshold);
    for (let at = 0; at < grey.values.length; at++) {
      if (grey.values[at] > least) {
        mask.data[at] = 1;
        area += 1;
      }
    }
    const context = clear(canvas, picture.naturalWidth, picture.naturalHeight);
    if (options["heat map"].checked) {
      const heat = heatLayer(Array.from(grey.values, (value) => value / 100), width, height);
      context.drawImage(heat, 0, 0, canvas.width, canvas.height);
    }
    paint(context, mask, COLOURS.prediction, { fill: options.mask.checked, outline: options.outline.checked, box: options.box.checked });
    const covered = percent(area / (width * height));
    canvas.setAttribute("aria-label", `Mask for “${answer.expression}”: ${covered} % of the picture`);
    facts.textContent = area ? `${covered} % of the picture` : "Nothing exceeds this threshold.";
    ["mask", "rle", "overlay"].forEach((kind, index) => {
      links[index].href = address(`/api/answer/${kind}`, { id, threshold });
    });
  }
  slider.addEventListener("input", draw);
  Object.values(options).forEach((box) => box.addEventListener("change", draw));
  draw();
  const why = el("div");
  const ask = el("button", { type: "button", onclick: () => showWhy(why, answer, picture.src, ask) }, "Why?");
  const nothing = answer.no_target === undefined ? "" : answer.no_target ? ", holds that nothing answers" : ", holds that something answers";
  return el(
    "article",
    { className: "card" },
    el("h2", { className: "expression", dir: "auto" }, answer.expression),
    el("div", { className: "stack" }, picture, canvas),
    ...[answer.warning, answer.note].filter(Boolean).map((text) => el("p", { className: "wrong" }, text)),
    facts,
    el("label", {}, "Threshold ", shown, slider),
    el("div", { className: "row" }, ...Object.entries(options).map(([name, box]) => el("label", { className: "inline" }, box, ` ${name}`))),
    el("p", { className: "soft" }, `${answer.checkpoint}, at its threshold ${answer.threshold ?? model.threshold}: score ${answer.score.toFixed(2)}, ${answer.parts} ${answer.parts === 1 ? "part" : "separate parts"}, highest probability ${answer.highest_probability.toFixed(2)}${nothing}`),
    el("div", { className: "row" }, ...links, ask, el("a", { href: link("try", { ids: id }) }, "link")),
    why,
  );
}
