/* What the theme leaves to be desired for readers who use a keyboard or a screen reader. */
"use strict";

// A box that scrolls sideways takes the focus, so that arrow keys can scroll it; one that does not stays out of the way.
// The theme asks once, when the page opens. Boxes that were folded away have no width then, so ask whenever one changes.
const focusIfItScrolls = new ResizeObserver(entries => entries.forEach(({ target }) => {
  const focusable = target.querySelector("a[href], button, input, select, summary, [tabindex='0']");
  target.tabIndex = target.scrollWidth > target.clientWidth && !focusable ? 0 : -1;
}));

addEventListener("load", () => {
  document.querySelectorAll("pre, .cell_output > .output, .pst-scrollable-table-container").forEach(box => focusIfItScrolls.observe(box));

  // A control's name holds the words that it shows; a folding button says what it folds.
  document.querySelectorAll(".search-button-field").forEach(button => button.removeAttribute("aria-label"));
  document.querySelectorAll(".theme-switch-button").forEach(button => {
    button.setAttribute("aria-label", "Color mode: light, dark or system settings");
  });
  document.querySelectorAll(".bd-links summary").forEach(fold => {
    const page = fold.closest("li").querySelector("a")?.textContent.trim();
    fold.setAttribute("aria-label", `Show or hide the pages of: ${page}`);
  });
  document.querySelectorAll(".admonition.dropdown").forEach(box => {
    const title = box.querySelector(".admonition-title")?.textContent.trim();
    const button = box.querySelector(":scope > .admonition-title > button.toggle-button");
    if (button && title) button.setAttribute("aria-label", `Show or hide: ${title}`);
  });
});
