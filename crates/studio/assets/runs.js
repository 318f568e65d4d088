// Runs, live.

import { address, el, get, link, note, percent, say } from "./common.js";

export async function showRuns(root, session, parameters, isCurrent) {
  if (!session.runs.length) {
    root.append(el("p", {}, "No run is named: start the program with --run DIR."));
    return;
  }
  const name = session.runs.includes(parameters.name) ? parameters.name : session.runs[0];
  if (parameters.name && parameters.name !== name) say(`There is no run named “${parameters.name}” here.`, true);
  const select = el("select", { onchange: () => { location.hash = link("runs", { name: select.value }).slice(1); } }, ...session.runs.map((run) => el("option", { value: run }, run)));
  select.value = name;
  note("runs", { name });
  const facts = el("p");
  const chart = el("img", { className: "chart curves", alt: `Loss and validation metrics of ${name}` });
  const pictures = el("div");
  root.append(el("label", {}, "Run ", select), facts, el("div", { className: "wide", tabIndex: 0, role: "region", "aria-label": "Curves" }, chart), pictures);
  let timer = 0;
  let seen = -1;

  async function refresh() {
    try {
      const run = await get("/api/run", { name });
      if (!isCurrent()) return;
      facts.textContent = summary(run);
      if (run.n_records !== seen) {
        seen = run.n_records;
        chart.src = address("/api/run/curves", { name, n: seen });
        pictures.replaceChildren(...run.pictures.map((picture) =>
          el("figure", {}, el("figcaption", {}, picture), el("img", { className: "chart", loading: "lazy", alt: `${picture} of ${name}`, src: address("/api/run/picture", { name, picture, n: seen }) }))));
      }
      if (!run.finished) timer = setTimeout(refresh, 4000);
    } catch (error) {
      if (!isCurrent()) return;
      say(error.message, true);
      timer = setTimeout(refresh, 10000);
    }
  }
  await refresh();
  return () => clearTimeout(timer);
}

const NAMES = { nta_mass: "NTA mass", identity_error: "identity errors" };

function summary({ step, eval: last, finished, n_records }) {
  if (!n_records) return "It has no records yet.";
  const parts = [];
  if (step) parts.push(`step ${step.step}, loss ${step.loss.total?.toFixed(4) ?? "–"}, ${step.runtime?.samples_per_s?.toFixed(0) ?? "–"} samples/s`);
  if (last) parts.push(`${last.split} at step ${last.step}: ${["mIoU", "oIoU", "nta_mass", "identity_error"].map((key) => `${NAMES[key] ?? key} ${last[key]?.toFixed(2) ?? "–"}`).join(", ")}`);
  return `${finished ? "Finished" : "Going on"}: ${parts.join("; ")}`;
}
