// Draws one plotly figure into its box, as wide as the page gives, and redraws it when that changes.
// Viewers (layout.meta.viewer) say how their panels lie on a wide and on a narrow page; their slices
// also follow the mouse and the arrow keys. `helpers.viewers.display` writes this file into the page.
function _drawFigure(box, figure, narrowBelow) {
  const plot = box.querySelector(".helpers-plot");
  const viewer = figure.layout.meta?.viewer;
  const title = figure.layout.title?.text;
  const top = figure.layout.margin?.t;
  const legend = figure.layout.legend || {};

  function wrapped(width) {
    const lines = [""];
    const most = Math.max(16, (viewer ? width : width - 80) / 8.6);
    for (const word of title.split(" ")) {
      const last = lines[lines.length - 1];
      if (last && `${last} ${word}`.length > most) lines.push(word);
      else lines[lines.length - 1] = last ? `${last} ${word}` : word;
    }
    return lines;
  }

  function fitted() {
    const width = box.clientWidth || 800;
    const narrow = width < narrowBelow;
    const way = viewer && (narrow ? viewer.narrow : viewer.wide);
    const changes = Object.assign({ width }, way ? way.layout : {});
    if (!viewer && legend.x === undefined) {
      const below = { orientation: "h", x: 0, y: -0.2, yanchor: "top" };
      changes.legend = narrow ? Object.assign({}, legend, below) : legend;
    }
    if (title && !title.includes("<")) {
      const lines = wrapped(width);
      const own = viewer ? changes["margin.t"] : top === undefined ? 56 : top;
      changes["title.text"] = lines.join("<br>");
      changes["margin.t"] = own + 20 * (lines.length - 1);
    }
    if (viewer) {
      const inside = width - changes["margin.l"] - changes["margin.r"];
      changes.height = Math.round(inside * way.ratio + changes["margin.t"] + changes["margin.b"]);
    }
    return changes;
  }

  function steps(moves) {
    const changes = {};
    for (const [number, wanted] of moves) {
      const slider = plot.layout.sliders[number];
      const to = Math.max(0, Math.min(slider.steps.length - 1, wanted));
      Object.assign(changes, slider.steps[to].args[0]);
      changes[`sliders[${number}].active`] = to;
    }
    return window.Plotly.relayout(plot, changes);
  }

  function pointed(event) {
    const drags = event.pointerType === "mouse" && event.buttons === 1;
    if (event.type === "pointermove" && !drags) return;
    const edge = plot.getBoundingClientRect();
    for (let panel = 0; panel < 3; panel++) {
      const number = panel ? panel + 1 : "";
      const x = plot._fullLayout[`xaxis${number}`];
      const y = plot._fullLayout[`yaxis${number}`];
      const across = (event.clientX - edge.left - x._offset) / x._length;
      const up = 1 - (event.clientY - edge.top - y._offset) / y._length;
      if (across < 0 || across > 1 || up < 0 || up > 1) continue;
      const moves = [across, up].map((share, i) => {
        const axis = viewer.across[panel][i];
        const [margin, voxels] = viewer.tiles[axis];
        return [axis, Math.floor(((share - margin) / (1 - 2 * margin)) * voxels)];
      });
      steps(moves);
      return;
    }
  }

  const keys = {
    ArrowLeft: [0, -1],
    ArrowRight: [0, 1],
    PageDown: [1, -1],
    PageUp: [1, 1],
    ArrowDown: [2, -1],
    ArrowUp: [2, 1],
  };

  function pressed(event) {
    const key = keys[event.key];
    if (!key) return;
    event.preventDefault();
    steps([[key[0], (plot.layout.sliders[key[0]].active || 0) + key[1]]]);
  }

  function put(path, value) {
    const names = path.replace(/\[(\d+)\]/g, ".$1").split(".");
    const last = names.pop();
    let place = figure.layout;
    for (const name of names) {
      if (place[name] === undefined) place[name] = {};
      place = place[name];
    }
    place[last] = value;
  }

  function draw() {
    for (const [path, value] of Object.entries(fitted())) put(path, value);
    if (window.matchMedia("(pointer: coarse)").matches) figure.layout.dragmode = false;
    // A fresh plot: a colour bar that is only turned by a relayout leaves its old ticks behind.
    window.Plotly.purge(plot);
    return window.Plotly.newPlot(plot, {
      data: figure.data,
      layout: figure.layout,
      frames: figure.frames,
      config: { displayModeBar: false, displaylogo: false },
    });
  }

  function start() {
    let width = box.clientWidth;
    draw().then(() => {
      box.style.minHeight = "";
      box.dataset.ready = "1";
    });
    new ResizeObserver(() => {
      if (!box.clientWidth || box.clientWidth === width) return;
      width = box.clientWidth;
      draw();
    }).observe(box);
    if (viewer?.tiles) {
      plot.addEventListener("pointerdown", pointed);
      plot.addEventListener("pointermove", pointed);
      box.addEventListener("keydown", pressed);
    }
  }

  if (window.Plotly) start();
  else window.addEventListener("load", start);
}
