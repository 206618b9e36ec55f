// Slides that all stand in the page: the list hides and moves them.

function listOf(root, model) {
  const slides = [...root.children];
  let all = model.all;
  return {
    show() {
      for (const [i, slide] of slides.entries()) slide.hidden = !model.matches[i];
      if (all !== model.all) root.append(...Array.from(model.all, (i) => slides[i]));
      all = model.all;
    },
    slide: (i) => slides[i],
    reveal: (i) => slides[i].scrollIntoView({ block: "nearest" }),
    open(places, isOpen) {
      for (const i of places) slides[i].open = isOpen;
    },
    isOpen: (i) => slides[i].open,
    /** Slides whose pictures are shown at once. */
    atOnce: Infinity,
  };
}
