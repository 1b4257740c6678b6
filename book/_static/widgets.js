// Tell the widget manager where its icon fonts lie: beside it, not beside the page.
(() => {
  const fonts = new URL("vendor/html-manager/fonts", document.currentScript.src).href;
  window.require.config({ paths: { "@jupyter-widgets/html-manager/dist": fonts, "@jupyter-widgets": fonts } });
})();
