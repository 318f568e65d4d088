// Where in the network the sentence and its words are answered, and how much of that lies on distractors.

import { address, el, get, percent, say } from "./common.js";
import { clear, heatLayer, load } from "./draw.js";

export async function showWhy(root, answer, pictureSource, button) {
  button.disabled = true;
  say("Looking inside the network …");
  try {
    const [{ stages, width, height, output_nta }, picture] = await Promise.all([get("/api/why", { id: answer.id }), load(pictureSource)]);
    say("");
    const words = [...new Set(stages.map((stage) => stage.word))];
    const shown = el("div", { className: "stages" });
    const buttons = words.map((word) =>
      el("button", { type: "button", dir: "auto", "aria-pressed": String(word === null), onclick: () => choose(word) }, word ?? "whole sentence"),
    );
    function choose(word) {
      buttons.forEach((one, index) => one.setAttribute("aria-pressed", String(words[index] === word)));
      shown.replaceChildren(...stages.filter((stage) => stage.word === word).map((stage) => stageFigure(stage, picture, width, height)));
    }
    const hasNta = stages.some((stage) => stage.nta !== null);
    root.replaceChildren(
      el("h3", {}, "What responds to"),
      el("div", { className: "words", role: "group", "aria-label": "Words" }, ...buttons),
      shown,
      el("p", { className: "soft" }, hasNta
        ? `NTA mass: the share of the response on target and distractors that lies on distractors. In the output: ${percent(output_nta)} %.`
        : "For a picture of a data set whose target has distractors, the NTA mass of each stage is shown, too."),
    );
    choose(null);
  } catch (error) {
    say(error.message, true);
  } finally {
    button.disabled = false;
  }
}

function stageFigure(stage, picture, width, height) {
  const canvas = el("canvas", { role: "img", "aria-label": `${stage.name}: response to ${stage.word ?? "the sentence"}` });
  const context = clear(canvas, Math.min(width, 360), Math.round((height * Math.min(width, 360)) / width));
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const highest = Math.max(...stage.response);
  const heat = heatLayer(stage.response.map((value) => (highest > 0 ? value / highest : 0)), stage.side, stage.side);
  // The picture's place inside the network's square.
  const [left, top, across, down] = stage.picture.map((part) => part * stage.side);
  context.imageSmoothingEnabled = false;
  context.drawImage(heat, left, top, across, down, 0, 0, canvas.width, canvas.height);
  const nta = stage.nta === null ? "" : `NTA mass ${percent(stage.nta)} %`;
  canvas.className = "chart";
  return el("figure", {}, canvas, el("figcaption", { className: "soft" }, stage.name, nta && el("br"), nta));
}
