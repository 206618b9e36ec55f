// The endpoint. The token goes out in a header, with pictures too, and never in an address.

const KEY = "uadray-token";

/** An answer that is no success. `status` is 0 where none came. */
export class Refused extends Error {
  constructor(status, text, retryAfter = null) {
    super(text);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

let askForToken = async () => null;
let asking = null;

/** Say how a token is asked for: a function of the reason that returns a token, or null. */
export function asksWith(ask) {
  askForToken = ask;
}

export function hasToken() {
  return sessionStorage.getItem(KEY) !== null;
}

export function forgetToken() {
  sessionStorage.removeItem(KEY);
}

/** The headers that pictures and data are asked for with. */
function headers() {
  const token = sessionStorage.getItem(KEY);
  return token === null ? {} : { Authorization: `Bearer ${token}` };
}

/** The path of a screening, of a slide of it, or of something of the slide. */
export function pathOf(screening, slide = null, rest = "", query = {}) {
  const known = Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== "");
  const tail = known.length ? `?${new URLSearchParams(known)}` : "";
  const of = slide === null ? "" : `/${encodeURIComponent(slide)}`;
  return `v1/screenings/${encodeURIComponent(screening)}/slides${of}${rest}${tail}`;
}

/** JSON of a path. */
export async function get(path, { signal } = {}) {
  return (await answered(path, { signal })).json();
}

/** The bytes of a picture. */
export async function picture(path, { signal } = {}) {
  return (await answered(path, { signal })).blob();
}

/** Write JSON on a condition: `etag` is that of what is replaced, null where nothing was there. */
export async function put(path, body, etag) {
  const condition = etag === null || etag === undefined ? { "If-None-Match": "*" } : { "If-Match": etag };
  const answer = await answered(path, {
    method: "PUT", body: JSON.stringify(body), headers: { "Content-Type": "application/json", ...condition },
  });
  return answer.json();
}

async function answered(path, options) {
  const used = sessionStorage.getItem(KEY);
  const answer = await sent(path, options);
  if (answer.ok) return answer;
  const why = await problem(answer);
  if (answer.status !== 401) throw new Refused(answer.status, why, answer.headers.get("Retry-After"));
  if (sessionStorage.getItem(KEY) === used) await anotherToken(used, why);
  return answered(path, options);
}

async function sent(path, options) {
  try {
    return await fetch(path, { ...options, headers: { ...options.headers, ...headers() }, cache: options.method ? "no-store" : "default" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused(0, "The endpoint does not answer. It may be restarting, or the network is down.");
  }
}

/** Ask once, however many requests were refused at the same time. */
async function anotherToken(used, why) {
  asking ??= askForToken(used === null ? "This endpoint wants a token." : `The token was refused: ${why}`).finally(() => { asking = null; });
  const token = await asking;
  if (!token) throw new Refused(401, "Without a token nothing can be shown.");
  sessionStorage.setItem(KEY, token);
}

async function problem(answer) {
  try {
    const body = await answer.json();
    return body.detail ?? body.error ?? body.title ?? answer.statusText;
  } catch {
    return answer.statusText || `status ${answer.status}`;
  }
}

/** An error as a sentence for people. */
export function sentence(error) {
  if (error instanceof Refused && error.status === 403) return `This token may not do that: ${error.message}`;
  if (error instanceof Refused && error.status === 404) return `Not there: ${error.message}`;
  if (error instanceof Refused && [429, 503].includes(error.status)) {
    return `The endpoint is busy${error.retryAfter ? `; try again in ${error.retryAfter} s` : ""}. ${error.message}`;
  }
  return error.message;
}
