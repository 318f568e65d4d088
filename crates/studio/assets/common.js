// Elements, requests, and the address. Text always goes in as text, never as markup.

export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && !["list", "form", "width", "height"].includes(name)) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== undefined && child !== null && child !== false && child !== 0));
  return element;
}

const status = document.getElementById("status");

export function say(text, bad = false) {
  status.textContent = text;
  status.classList.toggle("bad", bad);
}

export function address(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== null && value !== "") query.set(name, value);
  }
  const text = query.toString();
  return text ? `${path}?${text}` : path;
}

// Errors carry the program's one-line message.
async function answered(response) {
  let body = null;
  try {
    body = await response.json();
  } catch {
    throw new Error(`the program answered ${response.status}`);
  }
  if (!response.ok) throw new Error(body.error ?? `the program answered ${response.status}`);
  return body;
}

export async function get(path, parameters) {
  return answered(await reach(() => fetch(address(path, parameters))));
}

export async function send(path, form) {
  return answered(await reach(() => fetch(path, { method: "POST", body: form })));
}

async function reach(request) {
  try {
    return await request();
  } catch {
    throw new Error("the program does not answer; is it still running?");
  }
}

// The address is #/VIEW?PARAMETERS.
export function place() {
  const [path, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  return { view: path, parameters: Object.fromEntries(new URLSearchParams(query)) };
}

export const link = (view, parameters) => address(`#/${view}`, parameters);

// Changes the address without a new entry in the browser's history.
export function note(view, parameters) {
  history.replaceState(null, "", link(view, parameters));
}

export function percent(value, digits = 1) {
  return value === undefined || value === null ? "–" : (100 * value).toFixed(digits);
}

export function later(work, milliseconds = 250) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, milliseconds);
  };
}
