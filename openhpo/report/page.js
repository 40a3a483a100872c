// Draws each chart when it comes into view, in the colours of the page.
"use strict";
(() => {
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const narrow = () => window.innerWidth < 600;

  const colours = (layout) => {
    const text = style("--text"), line = style("--line");
    const axis = { gridcolor: line, linecolor: line, tickcolor: line, zerolinecolor: line };
    const found = {
      "font.color": text, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      "hoverlabel.bgcolor": style("--card"), "hoverlabel.font.color": text, "hoverlabel.bordercolor": line,
    };
    for (const name of ["xaxis", "yaxis"]) {
      if (layout[name]) for (const [key, value] of Object.entries(axis)) found[`${name}.${key}`] = value;
    }
    (layout.updatemenus || []).forEach((_, place) => {
      found[`updatemenus[${place}].bgcolor`] = style("--card");
      found[`updatemenus[${place}].bordercolor`] = line;
      found[`updatemenus[${place}].font.color`] = text;
    });
    return found;
  };

  const put = (layout, path, value) => {
    const names = path.replace(/\[(\d+)\]/g, ".$1").split(".");
    const last = names.pop();
    names.reduce((part, name) => (part[name] ??= {}), layout)[last] = value;
  };

  const drawn = new Set();
  const draw = async (chart) => {
    if (drawn.has(chart)) return;
    drawn.add(chart);
    const { data, layout } = JSON.parse(document.getElementById(`${chart.id}-data`).textContent);
    layout.font = { family: getComputedStyle(document.body).fontFamily, size: narrow() ? 11 : 13 };
    if (narrow() && layout.margin) {
      layout.margin.l = Math.min(layout.margin.l, 44);
      if (layout.updatemenus && layout.legend) {
        layout.margin.t = 92;
        for (const menu of layout.updatemenus) { menu.y = 1.14; }
      }
    }
    for (const [path, value] of Object.entries(colours(layout))) put(layout, path, value);
    await Plotly.newPlot(chart, data, layout, { responsive: true, displaylogo: false, displayModeBar: narrow() ? false : "hover" });
    chart.dataset.drawn = "yes";
  };

  let turn = Promise.resolve(); // one after the other, so that the first one is there soon
  const inTurn = (chart) => (turn = turn.then(() => new Promise(requestAnimationFrame)).then(() => draw(chart)).catch(console.error));

  const charts = [...document.querySelectorAll(".chart")];
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) inTurn(entry.target);
  }, { rootMargin: "400px" });
  charts.forEach((chart) => watcher.observe(chart));

  const recolour = () => { for (const chart of drawn) if (chart.dataset.drawn) Plotly.relayout(chart, colours(chart.layout)); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  window.drawAll = () => Promise.all(charts.map(inTurn));
  window.addEventListener("beforeprint", () => { charts.forEach(draw); recolour(); });
})();
