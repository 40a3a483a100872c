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

  const dressed = (layout) => {
    layout.font = { family: getComputedStyle(document.body).fontFamily, size: narrow() ? 11 : 13 };
    if (narrow() && layout.margin) {
      layout.margin.l = Math.min(layout.margin.l, 44);
      if (layout.updatemenus && layout.legend) {
        layout.margin.t = 92;
        for (const menu of layout.updatemenus) { menu.y = 1.14; }
      }
    }
    for (const [path, value] of Object.entries(colours(layout))) put(layout, path, value);
    return layout;
  };
  const config = () => ({ responsive: true, displaylogo: false, displayModeBar: narrow() ? false : "hover" });

  // ---- any two hyperparameters, chosen from two lists

  const remembered = (key) => { try { return JSON.parse(sessionStorage.getItem(key)); } catch { return null; } };
  const remember = (key, value) => { try { sessionStorage.setItem(key, JSON.stringify(value)); } catch { /* a page without storage */ } };

  const drawPair = async (chart, layout, text) => {
    const pairs = contours.read(text), lists = ["x", "y"].map((axis) => document.getElementById(`${chart.id}-${axis}`));
    const names = pairs.axes.map((axis) => axis.name), key = `contours of ${location.pathname}`; // a running study's page loads itself again
    const kept = (remembered(key) || []).map((name) => names.indexOf(name));
    let chosen = kept.length === 2 && !kept.includes(-1) ? kept : [0, 1];
    const show = async () => {
      const { data, xaxis, yaxis, said } = contours.figure(pairs, ...chosen);
      const fresh = structuredClone(layout);
      fresh.xaxis = { automargin: true, zeroline: false, ...xaxis };
      fresh.yaxis = { automargin: true, zeroline: false, ...yaxis };
      lists.forEach((list, place) => { list.value = chosen[place]; });
      document.getElementById(`${chart.id}-said`).textContent = said;
      await Plotly.react(chart, data, dressed(fresh), config());
    };
    lists.forEach((list, place) => {
      list.append(...names.map((name, number) => new Option(name, number)));
      list.addEventListener("change", () => {
        const value = Number(list.value);
        chosen = value === chosen[1 - place] ? [chosen[1], chosen[0]] : place ? [chosen[0], value] : [value, chosen[1]];
        remember(key, chosen.map((number) => names[number]));
        show();
      });
    });
    await show();
  };

  const drawn = new Set();
  const draw = async (chart) => {
    if (drawn.has(chart)) return;
    drawn.add(chart);
    const { data, layout } = JSON.parse(document.getElementById(`${chart.id}-data`).textContent);
    const pairs = document.getElementById(`${chart.id}-pairs`);
    if (pairs) await drawPair(chart, layout, pairs.textContent);
    else await Plotly.newPlot(chart, data, dressed(layout), config());
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
