"use strict";
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
  const list = document.getElementById("slides");
  const slides = [...list.children];
  const search = document.getElementById("search");
  const filters = [...document.querySelectorAll("[data-show]")];
  const heads = [...document.querySelectorAll("[data-sort]")];
  const numeric = new Set(["rank", "p", "score", "coverage", "size"]);
  const collator = new Intl.Collator("en", { numeric: true });
  let show = "";

  const refresh = () => {
    const wanted = search.value.trim().toLowerCase();
    let shown = 0;
    for (const slide of slides) {
      const { group, id } = slide.dataset;
      slide.hidden = (show !== "" && group !== show) || !id.toLowerCase().includes(wanted);
      shown += slide.hidden ? 0 : 1;
    }
    document.getElementById("shown").value = `${shown} of ${slides.length} shown`;
    document.getElementById("nothing").hidden = shown > 0;
  };

  const compare = (key, down) => (a, b) => {
    const [first, second] = [a.dataset[key], b.dataset[key]];
    const byRank = Number(a.dataset.rank) - Number(b.dataset.rank);
    if (first === second) return byRank;
    if (first === "" || second === "") return first === "" ? 1 : -1; // what is not known comes last, either way
    const order = numeric.has(key) ? Number(first) - Number(second) : collator.compare(first, second);
    return (down ? -order : order) || byRank;
  };

  const sortBy = (head) => {
    const again = head.getAttribute("aria-pressed") === "true";
    const down = again ? !head.classList.contains("down") : ["score", "size"].includes(head.dataset.sort);
    for (const other of heads) other.setAttribute("aria-pressed", String(other === head));
    head.classList.toggle("down", down);
    slides.sort(compare(head.dataset.sort, down));
    list.append(...slides);
  };

  for (const button of filters) {
    button.addEventListener("click", () => {
      show = button.dataset.show;
      for (const other of filters) other.setAttribute("aria-pressed", String(other === button));
      refresh();
    });
  }
  for (const head of heads) head.addEventListener("click", () => sortBy(head));
  search.addEventListener("input", refresh);

  const expand = document.getElementById("expand");
  expand.addEventListener("click", () => {
    const open = expand.dataset.open !== "yes";
    expand.dataset.open = open ? "yes" : "no";
    expand.textContent = open ? "Hide all pictures" : "Show all pictures";
    for (const slide of slides) slide.open = open;
  });

  const point = (event) => {
    const tile = event.target.closest("figure.tile");
    for (const old of list.querySelectorAll(".markers .on")) old.classList.remove("on");
    if (tile) tile.closest(".slide").querySelector(`.markers [data-tile="${tile.dataset.tile}"]`)?.classList.add("on");
  };
  list.addEventListener("mouseover", point);
  list.addEventListener("mouseleave", point);

  for (const button of document.querySelectorAll("[data-jump]")) {
    button.hidden = false;
    button.addEventListener("click", () => {
      filters.find((filter) => filter.dataset.show === button.dataset.jump).click();
      document.querySelector(".tools").scrollIntoView();
    });
  }
  const large = document.getElementById("large");
  list.addEventListener("click", (event) => {
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
  refresh();
});
