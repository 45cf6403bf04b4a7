"use strict";
/* The pictures of the page: codes to colours, one scale for all; a wipe between two of them; slices of volumes.
   value = low + (code - 1) step, code 0 where there is none. Everything comes from this page, nothing is fetched. */
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const [BAD, SVG] = [[125, 141, 181], "http://www.w3.org/2000/svg"];
  const volume = data.shape.length === 4;
  const nItems = data.shape[0];
  const size = data.shape.slice(1);
  const stride = size.reduce((a, b) => a * b, 1);

  const bytesOf = (text) => {
    const raw = atob(text), bytes = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
    return bytes;
  };
  const panels = data.panels.map((panel, i) => {
    const element = document.querySelectorAll("script.pixels")[0], bytes = bytesOf(element.textContent);
    element.remove(); // the codes replace the text, which is twice as large
    return { ...panel, index: i, codes: data.bits === 16 ? new Uint16Array(bytes.buffer) : bytes };
  });
  const bits = data.seen ? bytesOf(data.seen) : null; // where a survey observed, one bit per pixel
  const unseen = (i) => bits !== null && $("observed").checked && !((bits[i >> 3] >> (7 - (i & 7))) & 1);
  const tables = Object.fromEntries(Object.entries(data.colours).map(([name, c]) => [name, bytesOf(c.table)]));
  const diverging = Object.keys(tables).pop();

  /* State: what is shown and how. */
  const of = (role) => panels.findIndex((panel) => panel.role === role);
  const reconstruction = of("reconstruction");
  const opposite = [of("baseline"), of("input"), of("truth"), panels.length - 1].find((i) => i >= 0);
  const state = { left: opposite, right: reconstruction, wipe: 50, item: 0, axis: 2, slices: size.map((n) => n >> 1), colour: data.colour };
  const single = panels.length === 1;

  const format = (v) => {
    if (v === null || !Number.isFinite(v)) return "no value";
    return String(Number(v.toPrecision(4))).replace("-", "\u2212");
  };
  const spread = (low, high) => {
    if (high > low) return [low, high];
    const half = Math.abs(low) / 2 || 0.5;
    return [low - half, low + half];
  };
  const limits = spread(...data.full);
  const setScale = ([low, high]) => { [state.low, state.high] = spread(low, high); };
  setScale(data.auto);

  /* Geometry of the slice across an axis: its size, the index of pixel (row, column), the sides of a pixel. */
  const view = (axis = state.axis) => {
    const base = state.item * stride;
    if (!volume) {
      const [h, w] = size;
      return { w, h, ratio: w / h, at: (r, c) => base + r * w + c, flip: false };
    }
    const [nx, ny, nz] = size, [sx, sy, sz] = data.spacing, k = state.slices[axis];
    if (axis === 2) return { w: nx, h: ny, ratio: (nx * sx) / (ny * sy), at: (r, c) => base + (c * ny + r) * nz + k };
    if (axis === 1) return { w: nx, h: nz, ratio: (nx * sx) / (nz * sz), at: (r, c) => base + (c * ny + k) * nz + nz - 1 - r };
    return { w: ny, h: nz, ratio: (ny * sy) / (nz * sz), at: (r, c) => base + (k * ny + c) * nz + nz - 1 - r };
  };
  const valueAt = (panel, i) => (panel.codes[i] === 0 ? null : panel.low + (panel.codes[i] - 1) * panel.step);

  /* A layer is a canvas of the slice's own pixels under circles that mark peaks. */
  const layer = (box) => {
    const canvas = document.createElement("canvas"), marks = document.createElementNS(SVG, "svg");
    canvas.setAttribute("role", "img");
    marks.setAttribute("aria-hidden", "true");
    box.append(canvas, marks);
    return { box, canvas, marks };
  };

  const level = (v) => Math.min(255, Math.max(0, Math.floor(((v - state.low) / (state.high - state.low)) * 256)));
  const rgba = (r, g, b) => (255 << 24) | (b << 16) | (g << 8) | r;
  const coded = (panel, colour) => {
    const lookup = new Uint32Array(data.bits === 16 ? 65536 : 256);
    lookup[0] = colour ? rgba(...BAD) : 0;
    for (let code = 1; code < lookup.length; code++) {
      const t = level(panel.low + (code - 1) * panel.step);
      lookup[code] = colour ? rgba(colour[3 * t], colour[3 * t + 1], colour[3 * t + 2]) : t;
    }
    return lookup;
  };
  const isColour = () => data.rgb && $("rgb").checked;

  const paint = (target, panel, other, axis = state.axis) => {
    const { canvas, marks } = target, { w, h, ratio, at } = view(axis);
    if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
    canvas.classList.toggle("pixelated", w < 400);
    const context = canvas.getContext("2d"), picture = context.createImageData(w, h), out = new Uint32Array(picture.data.buffer);
    const { codes } = panel;
    if (other) {
      const table = tables[diverging], half = (state.high - state.low) / 2;
      for (let r = 0, p = 0; r < h; r++) {
        for (let c = 0; c < w; c++, p++) {
          const i = at(r, c), a = valueAt(other, i), b = valueAt(panel, i);
          const t = Math.min(255, Math.max(0, Math.floor(((b - a) / half + 1) * 128)));
          out[p] = a === null || b === null || unseen(i) ? rgba(...BAD) : rgba(table[3 * t], table[3 * t + 1], table[3 * t + 2]);
        }
      }
    } else if (isColour()) {
      const lookup = coded(panel, null), back = (state.item % 3) * stride;
      for (let r = 0, p = 0; r < h; r++) {
        for (let c = 0; c < w; c++, p++) {
          const i = at(r, c) - back, [x, y, z] = [codes[i], codes[i + stride], codes[i + 2 * stride]];
          out[p] = x && y && z ? rgba(lookup[x], lookup[y], lookup[z]) : rgba(...BAD);
        }
      }
    } else {
      const lookup = coded(panel, tables[state.colour]);
      for (let r = 0, p = 0; r < h; r++) {
        for (let c = 0; c < w; c++, p++) {
          const i = at(r, c);
          out[p] = lookup[unseen(i) ? 0 : codes[i]];
        }
      }
    }
    context.putImageData(picture, 0, 0);
    canvas.setAttribute("aria-label", other ? `${panel.name} less ${other.name}` : `${panel.name}, ${format(state.low)} to ${format(state.high)}`);
    const peaks = !other && $("peaks").checked ? panel.peaks[state.item] ?? [] : [];
    marks.setAttribute("viewBox", `0 0 ${w} ${h}`);
    marks.setAttribute("preserveAspectRatio", "none");
    marks.replaceChildren(...peaks.flatMap(([row, column]) => ["halo", ""].map((kind) => {
      const ring = document.createElementNS(SVG, "circle");
      for (const [name, v] of [["cx", column], ["cy", row], ["r", Math.max(w, h) / 45], ["class", kind]]) ring.setAttribute(name, v);
      return ring;
    })));
    return ratio;
  };

  /* The stage: the right picture lies over the left one, clipped at the wipe. */
  const under = layer($("under")), over = layer($("over")), stage = $("stage");
  const framed = (id, name, kind) => {
    const figure = document.createElement("figure"), box = document.createElement("div"), caption = document.createElement("figcaption");
    box.className = "layer";
    caption.textContent = name;
    figure.className = kind;
    figure.append(box, caption);
    $(id).append(figure);
    return { ...layer(box), caption };
  };
  const gallery = panels.map((panel) => framed("gallery", panel.name, `mode${panel.mode}`));

  /* The three planes of a volume; a click moves the other two to its place. */
  const planes = volume ? [...$("axis").options].map((option) => ({ ...framed("planes", option.text, ""), axis: Number(option.value), name: option.text })) : [];
  const drawPlanes = () => planes.forEach((plane) => {
    const right = panels[state.right], other = $("difference").checked ? panels[state.left] : null;
    plane.box.style.aspectRatio = String(paint(plane, right, other, plane.axis));
    plane.caption.textContent = `${plane.name}, slice ${state.slices[plane.axis] + 1} of ${size[plane.axis]}`;
  });
  planes.forEach((plane) => plane.box.addEventListener("click", (event) => {
    const box = plane.box.getBoundingClientRect(), { w, h } = view(plane.axis), [first, second] = [0, 1, 2].filter((a) => a !== plane.axis);
    const inside = (t, n) => Math.min(n - 1, Math.max(0, Math.floor(t * n)));
    const [c, r] = [inside((event.clientX - box.left) / box.width, w), inside((event.clientY - box.top) / box.height, h)];
    [state.slices[first], state.slices[second]] = [c, plane.axis === 2 ? r : h - 1 - r]; // z points upwards
    draw();
  }));

  const drawWipe = () => {
    const whole = $("difference").checked || single;
    $("over").style.clipPath = whole ? "none" : `inset(0 0 0 ${state.wipe}%)`;
    $("divider").style.left = `${state.wipe}%`;
    $("divider").hidden = whole;
    stage.classList.toggle("still", whole);
    $("wipe").value = state.wipe;
    $("wipe").setAttribute("aria-valuetext", `${Math.round(state.wipe)} % ${panels[state.left].name}, the rest ${panels[state.right].name}`);
    $("wipe-row").hidden = whole;
    $("tag-left").hidden = whole;
    $("tag-left").textContent = panels[state.left].name;
    $("tag-right").textContent = $("difference").checked ? "right less left" : panels[state.right].name;
  };

  const drawBar = () => {
    const difference = $("difference").checked, bar = $("bar"), context = bar.getContext("2d");
    const table = tables[difference ? diverging : isColour() ? "gray" : state.colour], picture = context.createImageData(256, 1);
    for (let t = 0; t < 256; t++) picture.data.set([table[3 * t], table[3 * t + 1], table[3 * t + 2], 255], 4 * t);
    context.putImageData(picture, 0, 0);
    const half = (state.high - state.low) / 2, middle = state.low + half;
    const ends = difference ? [-half, 0, half] : [state.low, middle, state.high];
    ["bar-low", "bar-middle", "bar-high"].forEach((id, i) => { $(id).textContent = format(ends[i]); });
    const span = limits[1] - limits[0], clamp = (t) => Math.min(1000, Math.max(0, Math.round(t)));
    $("level").value = clamp(((middle - limits[0]) / span) * 1000);
    $("window").value = clamp(Math.sqrt(half / span) * 1000); // fine steps for narrow windows
    $("level").setAttribute("aria-valuetext", format(middle));
    $("window").setAttribute("aria-valuetext", format(2 * half));
    for (const [id, v] of [["level-value", middle], ["window-value", 2 * half]]) {
      if (document.activeElement !== $(id)) $(id).value = Number(v.toPrecision(4));
    }
  };

  const drawPlace = () => {
    if (volume) {
      const n = size[state.axis], k = state.slices[state.axis];
      [$("slice").max, $("slice").value] = [n - 1, k];
      $("slice-text").textContent = `${k + 1} of ${n}`;
    }
    $("item").value = state.item;
    $("item-text").textContent = data.items[state.item].replace(/^image /, "");
    $("item").setAttribute("aria-valuetext", data.items[state.item]);
    $("item-row").hidden = nItems === 1 || (isColour() && nItems === 3);
    $("place").hidden = !volume && $("item-row").hidden;
  };

  let pending = false;
  const draw = () => {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => {
      pending = false;
      const [left, right] = [panels[state.left], panels[state.right]];
      paint(under, left);
      const ratio = paint(over, right, $("difference").checked ? left : null);
      stage.style.aspectRatio = String(ratio);
      stage.style.width = `min(100%, ${(80 * ratio).toFixed(3)}vh)`;
      gallery.forEach((target, i) => {
        target.box.style.aspectRatio = String(ratio);
        paint(target, panels[i]);
      });
      drawPlanes();
      drawWipe();
      drawBar();
      drawPlace();
    });
  };

  /* Values under the pointer, and dragging the wipe. */
  const read = (event) => {
    const box = stage.getBoundingClientRect(), { w, h, at } = view();
    const across = (event.clientX - box.left) / box.width, down = (event.clientY - box.top) / box.height;
    const [c, r] = [Math.floor(across * w), Math.floor(down * h)];
    if (c < 0 || r < 0 || c >= w || r >= h) return across;
    const shown = [...new Set([state.left, state.right])].map((i) => `${panels[i].name} ${format(valueAt(panels[i], at(r, c)))}`);
    $("readout").textContent = `${volume ? "across" : "column"} ${c}, ${volume ? "down" : "row"} ${r}: ${shown.join("; ")}`;
    return across;
  };
  const drag = (event) => {
    const across = read(event);
    if (event.buttons & 1 && !stage.classList.contains("still")) {
      state.wipe = Math.min(100, Math.max(0, across * 100));
      drawWipe();
    }
  };
  stage.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse") stage.setPointerCapture(event.pointerId);
    drag(event);
  });
  stage.addEventListener("pointermove", drag);

  /* Controls. */
  const on = (id, change) => $(id).addEventListener("input", () => { change($(id)); draw(); });
  for (const id of ["left", "right"]) {
    $(id).append(...panels.map((panel, i) => new Option(panel.name, i, false, i === state[id])));
    on(id, (e) => { state[id] = Number(e.value); });
  }
  $("colour").append(...Object.entries(data.colours).map(([name, c]) => new Option(c.label, name, false, name === state.colour)));
  on("colour", (e) => { state.colour = e.value; });
  on("difference", () => {});
  on("peaks", () => {});
  on("rgb", () => {});
  on("observed", () => {});
  on("axis", (e) => { state.axis = Number(e.value); });
  on("slice", (e) => { state.slices[state.axis] = Number(e.value); });
  on("item", (e) => { state.item = Number(e.value); });
  on("wipe", (e) => { state.wipe = Number(e.value); });
  const around = (middle, width) => { if (Number.isFinite(middle) && width > 0) [state.low, state.high] = [middle - width / 2, middle + width / 2]; };
  const middle = () => state.low + (state.high - state.low) / 2;
  on("level", (e) => around(limits[0] + (e.value / 1000) * (limits[1] - limits[0]), state.high - state.low));
  on("window", (e) => around(middle(), 2 * (Math.max(1, e.value) / 1000) ** 2 * (limits[1] - limits[0])));
  on("level-value", (e) => around(e.valueAsNumber, state.high - state.low));
  on("window-value", (e) => around(middle(), e.valueAsNumber));
  $("auto").addEventListener("click", () => { setScale(data.auto); draw(); });
  $("full").addEventListener("click", () => { setScale(data.full); draw(); });
  $("controls").addEventListener("submit", (event) => event.preventDefault());

  const dark = matchMedia("(prefers-color-scheme: dark)"), root = document.documentElement;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const drawTheme = () => $("theme").setAttribute("aria-pressed", String(isDark()));
  $("theme").addEventListener("click", () => { root.dataset.theme = isDark() ? "light" : "dark"; drawTheme(); });
  dark.addEventListener("change", drawTheme);

  $("item").max = nItems - 1;
  $("axis-row").hidden = $("slice-row").hidden = !volume;
  $("place").querySelector("legend").textContent = volume ? "Slice" : "Image";
  $("choice").hidden = single && !data.rgb;
  for (const id of ["left", "right", "difference"]) $(id).parentElement.hidden = single;
  $("peaks-row").hidden = !panels.some((panel) => Object.keys(panel.peaks).length);
  $("rgb-row").hidden = !data.rgb;
  $("observed-row").hidden = bits === null;
  $("bad-key").hidden = bits === null && !panels.some((panel) => panel.codes.includes(0));
  $("units").textContent = data.units ? ` (${data.units})` : "";
  $("gallery").classList.toggle("pairs", panels.some((panel) => panel.mode === "B"));
  $("gallery").hidden = $("side").hidden = single;
  $("planes").hidden = $("planes-title").hidden = !volume;
  $("theme").hidden = $("viewer").hidden = false;
  drawTheme();
  draw();
})();
