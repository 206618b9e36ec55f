// The page: filters, order, keys, enlarged pictures and the address bar, over a list of slides.

document.addEventListener("error", (event) => {
  const image = event.target;
  if (!(image instanceof HTMLImageElement)) return;
  const box = document.createElement("span");
  box.className = "lost";
  box.textContent = image.width < 100 ? "" : "picture not found";
  box.style.width = `${image.getAttribute("width")}px`;
  box.style.height = `${image.getAttribute("height")}px`;
  image.replaceWith(box);
}, true);

document.addEventListener("DOMContentLoaded", () => {
  const data = JSON.parse(document.getElementById("data").textContent);
  document.getElementById("data").remove();
  const model = modelOf(data);
  const root = document.getElementById("slides");
  const tools = document.querySelector(".tools");
  const list = listOf(root, model, data);
  const search = document.getElementById("search");
  const groups = [...document.querySelectorAll("[data-show]")];
  const heads = [...document.querySelectorAll("[data-sort]")];
  const clear = document.getElementById("clear");
  const unknown = document.getElementById("unknown");
  const thousands = (value) => String(value).replace(/\B(?=(\d{3})+$)/g, "\u202f");
  let current = null;

  // Filters
  const limit = document.getElementById("q");
  const selects = model.facets.filter(({ key, words, at }) => key !== "show" && words.length + (at.includes(NONE) ? 1 : 0) > 1).map((facet) => {
    const select = document.createElement("select");
    const label = document.createElement("label");
    label.append(`${FACETS[facet.key]} `, select);
    limit.closest("label").before(label);
    const values = facet.words.map((_, place) => place).sort((a, b) => (facet.words[a] < facet.words[b] ? -1 : 1));
    for (const place of [null, ...values, ...(facet.at.includes(NONE) ? [NONE] : [])]) select.add(new Option("", place ?? ""));
    select.addEventListener("change", () => {
      facet.wanted = select.value === "" ? null : Number(select.value);
      refresh();
    });
    return { facet, select };
  });
  limit.closest("label").hidden = model.index.q_value.every((value) => value === null);
  limit.addEventListener("input", () => {
    model.q = Number.isFinite(limit.valueAsNumber) ? limit.valueAsNumber : null;
    refresh();
  });

  const showFilters = () => {
    const { wanted, words, counts } = model.facet("show");
    const total = counts.reduce((sum, count) => sum + count, 0);
    for (const button of groups) {
      const place = words.indexOf(button.dataset.show);
      button.setAttribute("aria-pressed", String(wanted === (place < 0 ? null : place)));
      button.querySelector("i").textContent = thousands(place < 0 ? total : counts[place]);
    }
    for (const { facet, select } of selects) {
      const sum = facet.counts.reduce((all, count) => all + count, 0);
      for (const option of select.options) {
        const place = option.value === "" ? null : Number(option.value);
        const [word, count] = place === null ? ["all", sum] : place === NONE ? ["not known", facet.counts.at(-1)] : [facet.words[place].replaceAll("_", " "), facet.counts[place]];
        option.text = `${word} (${thousands(count)})`;
      }
      select.value = facet.wanted ?? "";
      select.classList.toggle("chosen", facet.wanted !== null);
    }
    if (document.activeElement !== search) search.value = model.find;
    if (document.activeElement !== limit) limit.value = model.q ?? "";
    clear.hidden = !model.isFiltered();
    for (const head of heads) {
      head.setAttribute("aria-pressed", String(head.dataset.sort === model.sort));
      head.classList.toggle("down", head.dataset.sort === model.sort && model.down);
    }
  };

  const refresh = ({ tell = true } = {}) => {
    model.refresh();
    list.show();
    showFilters();
    document.getElementById("shown").value = `${thousands(model.order.length)} of ${thousands(model.n)} shown`;
    document.getElementById("nothing").hidden = model.order.length > 0;
    unknown.hidden = true;
    if (tell) address.write(model.told());
  };

  for (const button of groups) {
    button.addEventListener("click", () => {
      const place = model.facet("show").words.indexOf(button.dataset.show);
      model.facet("show").wanted = place < 0 ? null : place;
      refresh();
    });
  }
  for (const head of heads) {
    head.addEventListener("click", () => {
      const key = head.dataset.sort;
      model.sortBy(key, model.sort === key ? !model.down : SORTED_DOWN.includes(key));
      refresh();
    });
  }
  search.addEventListener("input", () => {
    model.find = search.value;
    refresh();
  });
  clear.addEventListener("click", () => {
    model.clear();
    refresh();
    search.focus();
  });
  for (const button of document.querySelectorAll("[data-jump]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      model.clear();
      groups.find((other) => other.dataset.show === button.dataset.jump).click();
      tools.scrollIntoView();
    });
  }
  const expand = document.getElementById("expand");
  const some = Number.isFinite(list.atOnce) && model.n > list.atOnce ? `pictures of the first ${list.atOnce}` : "all pictures";
  expand.textContent = `Show ${some}`;
  expand.addEventListener("click", () => {
    const open = expand.dataset.open !== "yes";
    expand.dataset.open = open ? "yes" : "no";
    expand.textContent = open ? "Hide all pictures" : `Show ${some}`;
    list.open(open ? model.order.slice(0, list.atOnce) : model.all, open);
  });

  // One slide after the other
  const go = (i) => {
    list.reveal(i);
    list.slide(i).firstElementChild.focus({ preventScroll: true });
  };
  const step = (steps) => {
    if (!model.order.length) return;
    const place = current === null ? NONE : model.places[current];
    const next = place === NONE ? 0 : Math.min(model.order.length - 1, Math.max(0, place + steps));
    go(model.order[next]);
  };
  const slideAt = (element) => {
    const slide = element?.closest?.(".slide");
    return slide ? Number(slide.dataset.rank) - 1 : null;
  };
  root.addEventListener("focusin", (event) => {
    current = slideAt(event.target) ?? current;
    if (current !== null) address.write({ slide: model.index.id[current] });
  });
  const KEYS = {
    j: () => step(1), k: () => step(-1), "/": () => search.select(),
    v: () => document.activeElement.closest(".slide")?.querySelector(".viewer")?.click(),
  };
  const KEYS_IN_LIST = {
    ArrowDown: () => step(1), ArrowUp: () => step(-1), Home: () => step(-Infinity), End: () => step(Infinity),
    Escape: () => list.open([current], false),
  };
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const field = event.target.closest?.("input, select");
    if (field) {
      if (event.key !== "Escape") return;
      if (field === search && search.value) {
        search.value = model.find = "";
        refresh();
      } else field.blur();
      event.preventDefault();
      return;
    }
    const act = KEYS[event.key] ?? (event.target.closest?.("summary") ? KEYS_IN_LIST[event.key] : undefined);
    if (!act) return;
    event.preventDefault();
    act();
  });

  /** Show what the address bar says; a slide that it names is opened. */
  const follow = () => {
    const told = address.read();
    model.take(told);
    const slide = told.slide === undefined ? NONE : model.slideOf(told.slide);
    model.refresh();
    if (slide !== NONE && !model.matches[slide]) model.clear();
    refresh({ tell: false });
    if (told.slide === undefined) return;
    if (slide === NONE) {
      unknown.textContent = `No slide ${told.slide} on this page.`;
      unknown.hidden = false;
      return;
    }
    if (slide === current && list.isOpen(slide)) return;
    list.open([slide], true);
    go(slide);
  };
  addEventListener("hashchange", follow);

  // Pictures
  const point = (event) => {
    const tile = event.target.closest("figure.tile");
    for (const old of root.querySelectorAll(".markers .on")) old.classList.remove("on");
    if (tile) tile.closest(".slide").querySelector(`.markers [data-tile="${tile.dataset.tile}"]`)?.classList.add("on");
  };
  root.addEventListener("mouseover", point);
  root.addEventListener("mouseleave", point);
  const large = document.getElementById("large");
  root.addEventListener("click", (event) => {
    const pictures = event.target.closest(".pictures");
    if (!pictures || event.ctrlKey || event.metaKey || event.shiftKey) return; // the link still opens in its own tab
    event.preventDefault();
    large.firstElementChild.replaceChildren(...[...pictures.children].map((figure) => figure.cloneNode(true)));
    for (const image of large.querySelectorAll("img")) // in a box of other proportions a sheet would show its neighbours
      image.style.setProperty("--ratio", image.getAttribute("width") / image.getAttribute("height"));
    large.showModal();
  });
  large.addEventListener("click", (event) => event.target === large && large.close());

  document.getElementById("toolbar").hidden = false;
  document.getElementById("keys").hidden = false;
  new ResizeObserver(() => document.documentElement.style.setProperty("--tools", `${tools.offsetHeight}px`)).observe(tools);
  follow();
  document.documentElement.dataset.ready = "yes";
});
