// A list of many slides: the rows in view are on the page, each of one height, and open slides are as high as they are.

/** Details of slides, read from files beside the page; the last ones are kept. */
function detailsOf({ folder, names, each }) {
  const KEPT = 24;
  const files = new Map();
  const waiting = new Map();
  globalThis.worklistDetails = (name, slides) => waiting.get(name)?.(slides);
  const load = (name) => new Promise((resolve, reject) => {
    const script = document.createElement("script");
    const done = (act) => (value) => {
      waiting.delete(name);
      script.remove();
      act(value);
    };
    waiting.set(name, done(resolve));
    script.onerror = done(() => reject(new Error(`${folder}/${name}.js`)));
    script.src = `${folder}/${name}.js`;
    document.head.append(script);
  });
  return async (i) => {
    const name = names[Math.floor(i / each)];
    const slides = files.get(name) ?? load(name);
    files.delete(name);
    files.set(name, slides); // the last one asked for is the last one to go
    if (files.size > KEPT) files.delete(files.keys().next().value);
    slides.catch(() => files.delete(name));
    return (await slides)[i % each];
  };
}

function listOf(root, model, data) {
  const { row, body } = rowsOf(data);
  const details = detailsOf(data.details);
  const shown = new Map(); // slide -> its element
  const opened = new Map(); // slide -> how high what it shows is
  const OVER_PX = 240;
  const GUESSED_PX = 420;
  const SETTLED_MS = 90;
  let height = 0;
  let heights = []; // of the opened, by their place: [place, px]
  let settled = 0;
  let pinned = null;

  const measure = () => {
    height = Number.parseFloat(getComputedStyle(root).getPropertyValue("--row"));
  };
  const arrange = () => {
    heights = [...opened].map(([i, px]) => [model.places[i], px]).filter(([place]) => place !== NONE).sort((a, b) => a[0] - b[0]);
    root.style.height = `${topOf(model.order.length)}px`;
  };
  const topOf = (place) => {
    let top = place * height;
    for (const [before, px] of heights) {
      if (before >= place) break;
      top += px;
    }
    return top;
  };
  const placeAt = (y) => {
    let above = 0;
    for (const [place, px] of heights) {
      const top = place * height + above;
      if (y < top) break;
      if (y < top + height + px) return place;
      above += px;
    }
    return Math.floor((y - above) / height);
  };

  const fillBody = async (i, slide) => {
    const box = slide.lastElementChild;
    if (box.dataset.of === "yes") return;
    box.dataset.of = "yes";
    try {
      box.replaceChildren(...body(i, await details(i)).filter(Boolean));
    } catch (error) {
      box.dataset.of = "";
      const why = document.createElement("p");
      why.className = "message";
      why.textContent = `${error.message} is not beside this page. Copy the folder along with the page; or load the page again, if the screening goes on and has renewed it.`;
      box.replaceChildren(why);
    }
  };
  const resized = new ResizeObserver((entries) => {
    let moved = 0;
    for (const { target } of entries) {
      const i = Number(target.parentElement.dataset.rank) - 1;
      const px = target.offsetHeight;
      if (!opened.has(i) || !target.isConnected || px === opened.get(i)) continue;
      if (topOf(model.places[i]) + height < scrollY - root.offsetTop) moved += px - opened.get(i);
      opened.set(i, px);
    }
    arrange();
    if (moved) scrollBy(0, moved);
    render();
  });
  const made = (i) => {
    const slide = row(i);
    const item = document.createElement("div");
    item.setAttribute("role", "listitem");
    item.className = "item";
    item.append(slide);
    if (opened.has(i)) {
      slide.open = true;
      fillBody(i, slide);
    }
    resized.observe(slide.lastElementChild);
    return item;
  };

  /** Put the rows in view on the page, in their order; the one with the focus stays. */
  const render = () => {
    const above = scrollY - root.offsetTop;
    const n = model.order.length;
    const first = Math.max(0, placeAt(Math.max(0, above - OVER_PX)));
    const last = Math.min(n - 1, placeAt(Math.max(0, above + innerHeight + OVER_PX)));
    const places = [];
    for (let place = first; place <= last; place += 1) places.push(place);
    pinned = root.contains(document.activeElement) ? Number(document.activeElement.closest(".slide").dataset.rank) - 1 : null;
    const kept = pinned === null ? NONE : model.places[pinned];
    if (kept !== NONE && kept < first) places.unshift(kept);
    if (kept !== NONE && kept > last) places.push(kept);
    const wanted = new Set(places.map((place) => model.order[place]));
    for (const [i, item] of shown) {
      if (wanted.has(i)) continue;
      resized.unobserve(item.firstElementChild.lastElementChild);
      item.remove();
      shown.delete(i);
    }
    let next = root.firstElementChild;
    for (const place of places) {
      const i = model.order[place];
      let item = shown.get(i);
      if (!item) shown.set(i, (item = made(i)));
      if (item === next) next = next.nextElementSibling;
      else root.insertBefore(item, next);
      item.style.transform = `translateY(${topOf(place)}px)`;
      item.setAttribute("aria-posinset", place + 1);
      item.setAttribute("aria-setsize", n);
    }
    clearTimeout(settled);
    settled = setTimeout(() => {
      for (const image of root.querySelectorAll("img[data-src]")) {
        image.src = image.dataset.src;
        delete image.dataset.src;
      }
    }, SETTLED_MS);
  };

  root.addEventListener("toggle", (event) => {
    const slide = event.target;
    const i = Number(slide.dataset.rank) - 1;
    if (slide.open === opened.has(i)) return;
    if (slide.open) {
      opened.set(i, slide.lastElementChild.offsetHeight);
      fillBody(i, slide);
    } else opened.delete(i);
    arrange();
    render();
  }, true);
  addEventListener("scroll", render, { passive: true });
  addEventListener("resize", () => {
    measure();
    arrange();
    render();
  });
  measure();

  return {
    show() {
      arrange();
      if (scrollY > root.offsetTop && model.order.length * height < scrollY) scrollTo(0, 0);
      render();
    },
    slide(i) {
      if (!shown.has(i)) render();
      return shown.get(i).firstElementChild;
    },
    reveal(i) {
      const tools = Number.parseFloat(getComputedStyle(document.documentElement).getPropertyValue("--tools")) || 0;
      const top = root.offsetTop + topOf(model.places[i]);
      const bottom = top + height + (opened.get(i) ?? 0);
      if (top < scrollY + tools) scrollTo(0, top - tools);
      else if (bottom > scrollY + innerHeight) scrollTo(0, Math.min(top - tools, bottom - innerHeight));
      render();
    },
    open(slides, isOpen) {
      for (const i of slides) {
        if (isOpen) opened.set(i, opened.get(i) ?? GUESSED_PX);
        else opened.delete(i);
        const slide = shown.get(i)?.firstElementChild;
        if (!slide) continue;
        slide.open = isOpen;
        if (isOpen) fillBody(i, slide);
      }
      arrange();
      render();
    },
    isOpen: (i) => opened.has(i),
    atOnce: 100,
  };
}
