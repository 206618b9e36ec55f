// Small pictures: fetched with the token once they are seen, a few at a time, so that deep zoom does not wait for them.

import { picture } from "./api.js";
import { element } from "./elements.js";

const AT_ONCE = 4;
const waiting = [];
let running = 0;

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    waiting.push(target);
  }
  work();
}, { rootMargin: "300px" });

/** An image of a path, loaded when it is about to be seen. */
export function lazyPicture(path, alt, { width = null, height = null } = {}) {
  const image = element("img", { alt, width, height, class: "waiting" });
  image.dataset.path = path;
  seen.observe(image);
  return image;
}

/** Free the pictures within an element that is taken away. */
export function release(within) {
  for (const image of within.querySelectorAll("img")) {
    seen.unobserve(image);
    if (image.src.startsWith("blob:")) URL.revokeObjectURL(image.src);
  }
}

function work() {
  while (running < AT_ONCE && waiting.length) {
    const image = waiting.shift();
    if (!image.isConnected) continue;
    running += 1;
    load(image).finally(() => { running -= 1; work(); });
  }
}

async function load(image) {
  try {
    image.src = URL.createObjectURL(await picture(image.dataset.path));
    image.classList.remove("waiting");
  } catch {
    image.replaceWith(element("span", { class: "lost" }, "picture not found"));
  }
}
