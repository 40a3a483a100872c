// The objective over any two hyperparameters, as pairs.py and charts/contours.py compute and draw it.
"use strict";
window.contours = (() => {
  const TYPES = { f4: Float32Array, f8: Float64Array, i1: Int8Array, i4: Int32Array };
  const unpack = ({ dtype, bdata }) => new TYPES[dtype](Uint8Array.from(atob(bdata), (letter) => letter.charCodeAt(0)).buffer);

  // All that a page holds of candidates, the best first.
  const read = (text) => {
    const pairs = JSON.parse(text);
    for (const axis of pairs.axes) axis.values = unpack(axis.values);
    pairs.values = unpack(pairs.values);
    pairs.numbers = unpack(pairs.numbers);
    return pairs;
  };

  const choices = (axis) => axis.kind === "choices";
  const place = (axis, value) => (axis.kind === "log" ? Math.log10(value) : value);
  const back = (axis, value) => (axis.kind === "log" ? 10 ** value : value);
  const table = (lines, columns, value) => Array.from({ length: lines }, () => new Array(columns).fill(value));

  const rowsOf = (pairs, one, other) => {
    const found = [];
    pairs.values.forEach((_, row) => { if (!isNaN(one.values[row]) && !isNaN(other.values[row])) found.push(row); });
    return found;
  };

  const range = (axis, rows) => {
    const places = rows.map((row) => place(axis, axis.values[row]));
    return [places, places.reduce((a, b) => Math.min(a, b), Infinity), places.reduce((a, b) => Math.max(a, b), -Infinity)];
  };

  // ---- between two numbers

  const weights = (pairs, axis, rows) => {
    const [places, low, high] = range(axis, rows);
    if (low === high) return null;
    const unit = places.map((each) => (each - low) / (high - low));
    const mean = unit.reduce((a, b) => a + b, 0) / unit.length;
    const width = Math.sqrt(unit.reduce((sum, each) => sum + (each - mean) ** 2, 0) / unit.length) * unit.length ** (-1 / 6);
    const grid = Array.from({ length: pairs.grid }, (_, point) => point / (pairs.grid - 1));
    const near = unit.map((each) => Float64Array.from(grid, (point) => Math.exp(-(((each - point) / width) ** 2) / 2)));
    return { near, ends: grid.map((point) => back(axis, low + point * (high - low))) };
  };

  const surface = (pairs, one, other, rows) => {
    if (rows.length < pairs.fewest) return null;
    const x = weights(pairs, one, rows), y = weights(pairs, other, rows);
    if (!x || !y) return null;
    const size = pairs.grid, near = new Float64Array(size * size), sums = new Float64Array(size * size);
    rows.forEach((row, place) => {
      const value = Math.min(Math.max(pairs.values[row], pairs.limits[0]), pairs.limits[1]);
      const across = x.near[place], up = y.near[place];
      for (let line = 0, at = 0; line < size; line++) {
        for (let column = 0; column < size; column++, at++) {
          const weight = up[line] * across[column];
          near[at] += weight;
          sums[at] += weight * value;
        }
      }
    });
    const z = table(size, size, null);
    near.forEach((weight, at) => { if (weight >= pairs.near) z[Math.floor(at / size)][at % size] = sums[at] / weight; });
    return { x: x.ends, y: y.ends, z };
  };

  // ---- where one of them is a choice

  const cut = (pairs, axis, rows, others) => {
    if (choices(axis)) {
      return [Array.from({ length: axis.texts.length + 1 }, (_, border) => border - 0.5), rows.map((row) => axis.values[row])];
    }
    if (!rows.length) return [[-0.5, 0.5], []];
    let [places, low, high] = range(axis, rows);
    let count = Math.min(pairs.bins, Math.max(2, Math.floor(Math.sqrt(rows.length / (2 * others)) + 0.5)));
    if (low === high) {
      [low, high, count] = [low - 0.5, high + 0.5, 1];
    } else if (axis.whole && axis.kind === "linear") {
      const width = Math.ceil((high - low + 1) / count);
      count = Math.ceil((high - low + 1) / width);
      [low, high] = [low - 0.5, low - 0.5 + width * count];
    }
    const borders = Array.from({ length: count + 1 }, (_, border) => back(axis, low + ((high - low) * border) / count));
    const inside = places.map((each) => Math.min(Math.floor(((each - low) / (high - low)) * count + pairs.edge), count - 1));
    return [borders, inside];
  };

  const median = (values) => {
    const order = [...values].sort((a, b) => a - b), middle = order.length >> 1;
    return order.length % 2 ? order[middle] : (order[middle - 1] + order[middle]) / 2;
  };

  const cells = (pairs, one, other, rows) => {
    const [x, columns] = cut(pairs, one, rows, other.texts.length), [y, lines] = cut(pairs, other, rows, one.texts.length);
    const there = Array.from({ length: y.length - 1 }, () => Array.from({ length: x.length - 1 }, () => []));
    rows.forEach((row, place) => there[lines[place]][columns[place]].push(pairs.values[row]));
    const each = (what) => there.map((line) => line.map(what));
    return {
      x, y,
      counts: each((mine) => mine.length),
      median: each((mine) => (mine.length < pairs.cell ? null : median(mine))),
      best: each((mine) => pairs.sign * mine.reduce((a, b) => Math.min(a, pairs.sign * b), Infinity)),
    };
  };

  // ---- how it is drawn

  const short = (value) => String(Number(value.toPrecision(4)));

  const told = (found, who, fewest) => found.counts.map((line, row) => line.map((count, column) => {
    if (!count) return `no ${who}`;
    const middle = count < fewest ? "" : `, median ${short(found.median[row][column])}`;
    return `${count} ${who}${count === 1 ? "" : "s"}${middle}, best ${short(found.best[row][column])}`;
  }));

  const few = (pairs, axis) => axis.kind === "log" && axis.decades < pairs.decades;

  const scale = (pairs, axis) => {
    const title = { text: axis.name, standoff: pairs.standoff };
    if (!choices(axis)) return { title, type: axis.kind, autorange: true, ...(few(pairs, axis) ? { dtick: "D2" } : {}) };
    const every = Math.ceil(axis.texts.length / pairs.ticks);
    const tickvals = axis.texts.map((_, place) => place).filter((place) => place % every === 0);
    return {
      title, type: "linear", tickvals, ticktext: tickvals.map((place) => axis.texts[place]),
      range: [-0.5, axis.texts.length - 0.5], showgrid: false,
    };
  };

  const GOLDEN = (Math.sqrt(5) - 1) / 2;
  const spread = (pairs, axis, rows, step) => rows.map(
    (row) => (choices(axis) ? axis.values[row] + pairs.spread * ((((row + 1) * step + pairs.aside) % 1) - 0.5) : axis.values[row])
  );

  const dotted = (pairs, look, x, y, rows, colour, alone) => {
    const trace = { ...look, x: spread(pairs, x, rows, GOLDEN), y: spread(pairs, y, rows, GOLDEN ** 2) };
    trace.customdata = rows.map((row) => [pairs.numbers[row], pairs.values[row]]);
    if (colour) Object.assign(trace.marker, { color: rows.map((row) => pairs.values[row]), showscale: alone });
    return trace;
  };

  // Traces, axes, and how many candidates they are from.
  const figure = (pairs, one, other) => {
    const x = pairs.axes[one], y = pairs.axes[other], rows = rowsOf(pairs, x, y), looks = structuredClone(pairs.looks), data = [];
    let said = `${rows.length.toLocaleString("en")} ${pairs.who}${rows.length === 1 ? "" : "s"}`, dots = rows;
    if (rows.length < pairs.values.length) said += " that have both";
    if (!choices(x) && !choices(y)) {
      const found = surface(pairs, x, y, rows);
      if (found) data.push({ ...looks.surface, ...found });
      else said += `: too few for a surface, which takes ${pairs.fewest} that differ in both`;
    } else if (rows.length) {
      const found = cells(pairs, x, y, rows), both = choices(x) && choices(y);
      data.push({ ...looks.cells, x: found.x, y: found.y, z: found.median, hovertext: told(found, pairs.who, pairs.cell) });
      if (both) {
        Object.assign(data[0], { text: found.counts, texttemplate: "%{text}" });
        dots = rows.filter((row) => found.counts[y.values[row]][x.values[row]] < pairs.cell);
      }
    }
    const every = Math.ceil(dots.length / pairs.dots) || 1;
    if (every > 1) said += `, one in ${every} a dot`;
    dots = dots.filter((_, place) => place % every === 0).reverse();
    data.push(dotted(pairs, looks.dots, x, y, dots, true, !data.length), dotted(pairs, looks.star, x, y, rows.filter((row) => row === 0)));
    return { data, xaxis: scale(pairs, x), yaxis: scale(pairs, y), said: `${said}.` };
  };

  return { read, figure };
})();
