// Shows the view that the address names.

import { el, get, place, say } from "./common.js";
import { showCase } from "./case.js";
import { showRuns } from "./runs.js";
import { showTable } from "./table.js";
import { showTry } from "./try.js";

const view = document.getElementById("view");
const VIEWS = {
  try: showTry,
  browse: (...all) => showTable("browse", ...all),
  compare: (...all) => showTable("compare", ...all),
  case: showCase,
  runs: showRuns,
};
let leave = null;
let turn = 0;

function firstView(session) {
  if (session.models.length) return "try";
  return session.datasets.some((dataset) => dataset.sources.length) ? "compare" : "browse";
}

async function show() {
  const own = ++turn;
  leave?.();
  leave = null;
  say("");
  try {
    const session = await get("/api/session");
    if (own !== turn) return;
    const { view: name, parameters } = place();
    const chosen = VIEWS[name] ? name : firstView(session);
    for (const link of document.querySelectorAll("nav a")) {
      const current = link.dataset.view === chosen;
      if (current) link.setAttribute("aria-current", "page");
      else link.removeAttribute("aria-current");
    }
    const root = el("div");
    view.replaceChildren(root);
    document.title = `${chosen} · talent studio`;
    leave = (await VIEWS[chosen](root, session, parameters, () => own === turn)) ?? null;
  } catch (error) {
    if (own === turn) say(error.message, true);
  }
}

// The address is the view's: the link moves the focus alone.
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  view.focus();
});
addEventListener("hashchange", show);
show();
