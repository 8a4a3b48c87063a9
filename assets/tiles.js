/* The layer panel's tiles: real buttons over picture sheets. Filtering and sorting reuse the buttons and the pictures. */
(() => {
  "use strict";

  const GROUPS = ["clean", "shared", "adversarial", "other"];
  const NAMES = ["clean only", "shared", "adversarial only", "in neither datapath"];
  const MARKS = ["C", "S", "A", "–"];
  // Whole pixels, so that neighbouring tiles of a sheet never bleed in; the largest with which a layer fits without scrolling.
  const LARGEST = 84;
  const SMALLEST = 46;
  // Beside its maps a tile takes its border and the gap, below them its text and the gap.
  const AROUND = 22;
  const BELOW = 36;
  // This many tiles are placed at once, the rest while the page has nothing else to do.
  const AT_ONCE = 256;
  // Above this many, tiles out of sight are not painted; a smaller layer is also whole on paper.
  const MANY = 256;
  const MILLION = 1e6;
  const ORDERS = {
    importance: (p, i) => Math.max(p.clean[i], p.adversarial[i]),
    change: (p, i) => p.change[i],
    flow: (p, i) => p.flow[i],
    index: (p, i) => -i,
  };

  const { faultline } = window;
  const { byId, pick } = faultline;
  const percent = (parts, signed) => `${signed && parts > 0 ? "+" : ""}${faultline.percent(parts / MILLION)}`;

  const drawn = { combination: null, panel: null, buttons: [], paint: null, choice: null, pressed: null, placing: null };
  const chosen = { group: "all", sort: "importance", scale: "channel", mode: "maps" };
  let groups = "";

  function draw(panel) {
    const body = byId("layer-body");
    const now = JSON.stringify(panel.groups);
    if (groups !== now) faultline.set("layer-group", { data: panel.groups });
    groups = now;
    showMessage(panel, body);
    if (panel.message) {
      drawn.panel = null;
      return;
    }
    build(panel);
    arrange(panel, chosen.group, chosen.sort);
    show(panel);
  }

  function show(panel) {
    paint(panel, chosen.scale, chosen.mode);
    const tiles = byId("layer-tiles");
    tiles.dataset.drawn = String(Number(tiles.dataset.drawn || 0) + 1);
  }

  function controls(group, scale, mode) {
    turn(group, chosen.sort, scale, mode);
  }

  function turn(group, sort, scale, mode) {
    const isOther = group !== chosen.group || sort !== chosen.sort;
    Object.assign(chosen, { group, sort, scale, mode });
    if (!drawn.panel) return;
    if (isOther) arrange(drawn.panel, group, sort);
    show(drawn.panel);
  }

  function showMessage(panel, body) {
    const message = byId("layer-message");
    message.textContent = panel.message || "";
    message.hidden = !panel.message;
    body.hidden = Boolean(panel.message);
    byId("layer-title").textContent = panel.title;
  }

  function build(panel) {
    const template = document.createElement("button");
    template.type = "button";
    template.tabIndex = -1;
    template.innerHTML = '<i class="map first"></i><i class="map second"></i><b></b><em></em><span></span>';
    drawn.buttons = panel.group.map((group, channel) => button(template, panel, group, channel));
    drawn.panel = panel;
    drawn.pressed = null;
    byId("layer-tiles").setAttribute("aria-label", `Feature maps of ${panel.layer}`);
    drawn.combination = null;
    showSets(panel.counts);
    provable(panel);
    faultline.emit("tiles", { panel, buttons: drawn.buttons });
    press();
  }

  function button(template, panel, group, channel) {
    const tile = template.cloneNode(true);
    tile.className = `tile ${GROUPS[group]}`;
    tile.dataset.channel = channel;
    tile.style.setProperty("--column", channel % panel.columns);
    tile.style.setProperty("--row", Math.floor(channel / panel.columns));
    const [, , mark, number] = tile.children;
    mark.textContent = MARKS[group];
    number.textContent = channel;
    tile.setAttribute("aria-pressed", "false");
    tile.setAttribute("aria-label", `Feature map ${channel}, ${NAMES[group]}, change ${panel.change[channel].toFixed(2)}`);
    return tile;
  }

  function arrange(panel, group, sort) {
    const value = ORDERS[sort] || ORDERS.importance;
    const wanted = GROUPS.indexOf(group);
    const isShown = (i) => (wanted < 0 || panel.group[i] === wanted) && (drawn.combination === null || panel.member[i] === drawn.combination);
    const channels = panel.group.map((_, channel) => channel).filter(isShown);
    const keys = panel.group.map((_, channel) => value(panel, channel));
    channels.sort((a, b) => keys[b] - keys[a] || a - b);
    for (const i of channels) drawn.buttons[i].lastChild.textContent = shownValue(panel, i, sort);
    const tiles = byId("layer-tiles");
    place(tiles, channels.map((i) => drawn.buttons[i]));
    rove(drawn.pressed?.isConnected ? drawn.pressed : tiles.firstElementChild);
    const total = panel.group.length;
    byId("layer-shown").textContent = channels.length
      ? `${channels.length.toLocaleString("en")} of ${total.toLocaleString("en")} channels, ${sorted(sort)}`
      : `None of the ${total.toLocaleString("en")} channels is ${wanted < 0 ? "in this combination" : NAMES[wanted]}.`;
  }

  /* Whole groups of this layer can be put back. */
  function provable(panel) {
    const { fill, make } = faultline;
    const groups = GROUPS.slice(0, 3).map((group, k) => [group, NAMES[k], panel.counts[k]]).filter(([, , count]) => count);
    fill("layer-test", make("span", { class: "control-label" }, "Causal test: patch all"), ...groups.map(([group, name, count]) => (
      make("button", { class: "plain-button", "data-patch": `${group}:${panel.layer}`, "data-term": "layer-test", "aria-label": `Test the ${count} ${name} channels` }, `${name} (${count})`))));
  }

  function place(tiles, all) {
    tiles.replaceChildren(...all.slice(0, AT_ONCE));
    tiles.scrollTop = 0;
    drawn.placing = all;
    let next = AT_ONCE;
    tiles.setAttribute("aria-busy", String(next < all.length));
    const more = () => {
      // Another order or another layer has taken over.
      if (drawn.placing !== all) return;
      tiles.append(...all.slice(next, next + AT_ONCE));
      next += AT_ONCE;
      if (next < all.length) window.requestIdleCallback(more, { timeout: 200 });
      else {
        tiles.setAttribute("aria-busy", "false");
        press();
      }
    };
    if (next < all.length) window.requestIdleCallback(more, { timeout: 200 });
  }

  function sorted(sort) {
    return { change: "most changed first", flow: "largest attack conductance first", index: "in channel order" }[sort] || "most important first";
  }

  function shownValue(panel, channel, sort) {
    if (sort === "flow") return percent(panel.flow[channel], true);
    return `Δ ${panel.change[channel].toFixed(2)}`;
  }

  function paint(panel, scale, mode) {
    const difference = mode === "difference";
    const wanted = `${panel.key}/${panel.site}?${scale}&${mode}`;
    if (drawn.paint === wanted) return;
    drawn.paint = wanted;
    const tiles = byId("layer-tiles");
    const side = fittingSide(panel, tiles.clientWidth, difference ? 1 : 2);
    const sheet = (name) => `url("${address(panel, name, scale)}")`;
    const height = heightOf(panel, side);
    tiles.classList.toggle("is-difference", difference);
    tiles.classList.toggle("is-overlay", mode === "overlay");
    tiles.classList.toggle("is-many", panel.group.length > MANY);
    tiles.style.setProperty("--width", `${side}px`);
    tiles.style.setProperty("--height", `${height}px`);
    tiles.style.setProperty("--columns", panel.columns);
    tiles.style.setProperty("--rows", Math.ceil(panel.group.length / panel.columns));
    tiles.style.setProperty("--first", sheet(difference ? "difference" : "clean"));
    tiles.style.setProperty("--second", difference ? "none" : sheet("adversarial"));
    for (const name of ["clean", "adversarial"]) {
      tiles.style.setProperty(`--${name}-input`, `url("/media/examination/${encodeURIComponent(panel.key)}/0/${name}.png")`);
    }
    byId("layer-note").textContent = note(panel, scale, mode);
    const of = scale === "layer" ? "in the layer" : "of each channel";
    if (difference) faultline.scale("layer-colours", "purple-orange", "weaker", "stronger under attack");
    else faultline.scale("layer-colours", "viridis", "low", `high ${of}`);
  }

  const heightOf = (panel, side) => Math.max(8, Math.min(2 * side, Math.round((side * panel.height) / panel.width)));

  /* The fewest tiles across with which all fit, as wide as the panel lets them be. */
  function fittingSide(panel, width, maps) {
    const FITTING = Math.max(200, byId("layer-tiles").clientHeight);
    const sideOf = (across) => Math.min(LARGEST, Math.floor(((width + 6) / across - AROUND) / maps));
    const most = Math.max(1, Math.floor((width + 6) / (maps * SMALLEST + AROUND)));
    const fits = (across) => Math.ceil(panel.group.length / across) * (heightOf(panel, sideOf(across)) + BELOW) <= FITTING;
    let across = 1;
    while (across < most && !fits(across)) across += 1;
    return Math.max(SMALLEST, sideOf(across));
  }

  function address(panel, side, scale) {
    return `/media/maps/${encodeURIComponent(panel.key)}/${panel.site}/${side}.png?scale=${encodeURIComponent(scale)}`;
  }

  function note(panel, scale, mode) {
    const parts = [
      mode === "difference"
        ? `Adversarial minus clean: orange is stronger under attack, purple weaker, one scale ${scale === "layer" ? "for the layer" : "per map"}`
        : `Clean left, adversarial right, one colour scale ${scale === "layer" ? "for the layer" : "per map"}`,
    ];
    if (panel.is_pooled) parts.push("tiles are max-pooled to 28 × 28 at most");
    if (mode === "overlay") parts.push(`laid over the ${panel.images > 1 ? "first " : ""}input: bright where the map answers`);
    if (panel.images > 1) parts.push(`mean over ${panel.images} images`);
    if (panel.is_stem) parts.push("the stem: its few maps carry everything, so claims leave it out");
    else if (panel.is_evidence) parts.push("its maps are the classes themselves, so claims leave it out");
    else if (panel.is_cut) parts.push("every path runs through this layer: all of its maps together carry any answer");
    return `${parts.join("; ")}.`;
  }

  function showSets(counts) {
    const [clean, shared, adversarial, outside] = counts;
    const sets = byId("layer-sets");
    const column = (n) => (n ? `minmax(2.6em, ${n}fr)` : "0");
    sets.querySelector(".sets-bar").style.gridTemplateColumns = [clean, shared, adversarial].map(column).join(" ");
    const say = (selector, text) => { sets.querySelector(selector).textContent = text; };
    say(".bracket.clean", `clean datapath ${clean + shared}`);
    say(".bracket.adversarial", `adversarial datapath ${shared + adversarial}`);
    say(".part.clean", clean ? `C ${clean}` : "");
    say(".part.shared", shared ? `S ${shared}` : "");
    say(".part.adversarial", adversarial ? `A ${adversarial}` : "");
    say(".outside", `– ${outside.toLocaleString("en")} in neither`);
  }

  function rove(tile) {
    const tiles = byId("layer-tiles");
    for (const old of tiles.querySelectorAll('[tabindex="0"]')) old.tabIndex = -1;
    if (tile) tile.tabIndex = 0;
  }

  /* Mark the chosen tile, if the choice is of the layer that is drawn. */
  function press() {
    drawn.pressed?.setAttribute("aria-pressed", "false");
    drawn.pressed = drawn.choice && drawn.choice.layer === drawn.panel?.layer ? drawn.buttons[drawn.choice.channel] : null;
    if (!drawn.pressed) return;
    drawn.pressed.setAttribute("aria-pressed", "true");
    if (!drawn.pressed.isConnected) return;
    rove(drawn.pressed);
    reveal(drawn.pressed);
  }

  /* The chosen tile is kept in view, and only the tiles scroll for it. */
  function reveal(tile) {
    const tiles = byId("layer-tiles");
    const above = tile.offsetTop - tiles.scrollTop;
    if (above < 0) tiles.scrollTop += above - 6;
    else if (above + tile.offsetHeight > tiles.clientHeight) tiles.scrollTop += above + tile.offsetHeight - tiles.clientHeight + 6;
  }

  function choose(ask) {
    drawn.choice = ask ? { layer: ask.layer, channel: ask.channel } : null;
    press();
  }

  /* Columns of the grid as laid out, for the arrow keys. */
  function columnsShown(tiles) {
    return getComputedStyle(tiles).gridTemplateColumns.split(" ").length;
  }

  function move(event) {
    const tile = event.target.closest(".tile");
    if (!tile || event.altKey || event.ctrlKey || event.metaKey) return;
    const all = [...tile.parentElement.children];
    const at = all.indexOf(tile);
    const across = columnsShown(tile.parentElement);
    const goal = { ArrowRight: at + 1, ArrowLeft: at - 1, ArrowDown: at + across, ArrowUp: at - across, Home: 0, End: all.length - 1 }[event.key];
    if (goal === undefined) return;
    event.preventDefault();
    const next = all[goal];
    if (!next) return;
    rove(next);
    next.focus();
  }

  function explain(event) {
    const tile = event.target.closest?.(".tile");
    if (!tile || tile.title || !drawn.panel) return;
    const panel = drawn.panel;
    const i = Number(tile.dataset.channel);
    tile.title = [
      `Feature map ${i}: ${NAMES[panel.group[i]]}`,
      `clean ${percent(panel.clean[i])} of all scores, adversarial ${percent(panel.adversarial[i])}`,
      `change ${panel.change[i].toFixed(2)}, attack flow ${percent(panel.flow[i], true)}`,
      ...(panel.member[i] & 4 ? [`also of class '${panel.class_name}'`] : []),
      ...(panel.member[i] & 8 ? ["noise of the same size keeps it too"] : []),
    ].join("\n");
  }

  function click(event) {
    const tile = event.target.closest("#layer-tiles .tile");
    if (tile && drawn.panel) {
      choose({ layer: drawn.panel.layer, channel: Number(tile.dataset.channel) });
      pick(drawn.choice);
      return;
    }
    const neighbour = event.target.closest("[data-pick-layer]");
    if (neighbour) pick({ layer: neighbour.dataset.pickLayer, channel: Number(neighbour.dataset.pickChannel) });
  }

  let told = "";
  function tell(group, scale) {
    const now = { group, sort: chosen.sort, scale };
    const line = Object.values(now).join();
    if (line === told) return;
    told = line;
    // A default is left out of the link.
    for (const name of Object.keys(now)) if (now[name] === CHOICES[name][0]) now[name] = null;
    pick(now);
  }

  function sortBy(sort) {
    byId("layer-sort").value = sort;
    turn(chosen.group, sort, chosen.scale, chosen.mode);
  }

  document.addEventListener("change", (event) => {
    if (event.target.id !== "layer-sort") return;
    sortBy(event.target.value);
    tell(chosen.group, chosen.scale);
  });

  const CHOICES = { group: ["all", ...GROUPS], sort: Object.keys(ORDERS), scale: ["channel", "layer"] };
  function restore(view) {
    if (!view) return;
    const wanted = Object.keys(CHOICES).map((name) => (CHOICES[name].includes(view[name]) ? view[name] : CHOICES[name][0]));
    if (wanted.join() === told) return;
    told = wanted.join();
    Object.keys(CHOICES).forEach((name, k) => { if (name !== "sort") faultline.set(`layer-${name}`, { value: wanted[k] }); });
    sortBy(wanted[1]);
  }

  /* ---- what can be saved: the tiles as they stand, and every channel's numbers ---- */
  const CELL = 72;
  // More would not fit on a canvas of every browser.
  const MOST_DRAWN = 512;

  async function sheets(panel) {
    const names = chosen.mode === "difference" ? ["difference"] : ["clean", "adversarial"];
    return Promise.all(names.map((name) => faultline.saving.loaded(address(panel, name, chosen.scale))));
  }

  function drawTile(pen, images, panel, tile, x, y) {
    const channel = Number(tile.dataset.channel);
    const high = heightOf(panel, CELL);
    const rows = Math.ceil(panel.group.length / panel.columns);
    images.forEach((image, k) => {
      const [wide, tall] = [image.naturalWidth / panel.columns, image.naturalHeight / rows];
      pen.drawImage(image, (channel % panel.columns) * wide, Math.floor(channel / panel.columns) * tall, wide, tall, x + k * (CELL + 2), y + 4, CELL, high);
    });
    pen.fillStyle = faultline.saving.colour(panel.group[channel] < 3 ? GROUPS[panel.group[channel]] : "line");
    pen.fillRect(x, y, images.length * (CELL + 2) - 2, 3);
    pen.fillStyle = faultline.saving.colour("text");
    pen.fillText(`${MARKS[panel.group[channel]]} ${channel}   ${tile.lastChild.textContent}`, x, y + high + 18);
  }

  function picture(panel) {
    const all = drawn.placing || [];
    const tiles = all.slice(0, MOST_DRAWN);
    const count = chosen.mode === "difference" ? 1 : 2;
    const [wide, tall] = [count * (CELL + 2) + 12, heightOf(panel, CELL) + 30];
    const across = Math.max(1, Math.min(tiles.length, Math.ceil(Math.sqrt((tiles.length * tall * 1.6) / wide))));
    const part = tiles.length < all.length ? `, the first ${tiles.length} of ${all.length}` : "";
    const { canvas } = faultline.saving;
    return canvas(across * wide, Math.ceil(tiles.length / across) * tall, `${panel.title}${part}. ${byId("layer-shown").textContent}`, async (pen) => {
      const images = await sheets(panel);
      tiles.forEach((tile, k) => drawTile(pen, images, panel, tile, (k % across) * wide, Math.floor(k / across) * tall));
    });
  }

  function numbers(panel) {
    const heads = ["layer", "channel", "group", "clean share of scores", "adversarial share of scores", "change", "attack conductance", "also of the fooled-into class", "also under noise"];
    const rows = panel.group.map((group, i) => [panel.layer, i, NAMES[group], panel.clean[i] / MILLION, panel.adversarial[i] / MILLION, panel.change[i], panel.flow[i] / MILLION,
      panel.has_class ? (panel.member[i] & 4 ? "yes" : "no") : "", panel.member[i] & 8 ? "yes" : "no"]);
    return [heads, ...rows];
  }

  faultline.offer("layer", () => (drawn.panel ? [
    { title: "Tiles", name: "tiles", picture: () => picture(drawn.panel) },
    { title: "Numbers of every channel", name: "channels", rows: () => numbers(drawn.panel) },
    ...faultline.saving.table("#layer-upset table", "All combinations", "combinations"),
  ] : []));

  const SHOWN_BY = ["key", "layer", "share"];
  faultline.panel("layer", {
    draw,
    root: ".layer-panel",
    by: SHOWN_BY,
    level: 2,
    of: ({ key, request, arrived }, { layer, share }) => (layer ? {
      request, key, share, layer, classes: arrived.includes("kinship"), noise: arrived.includes("noise control"),
    } : null),
  });
  /* ---- linked highlighting: pointing at a bar marks its tiles, pointing at a tile marks its bar ---- */
  function point(event) {
    const tile = event.target.closest?.("#layer-tiles .tile");
    const panel = drawn.panel;
    const group = tile && panel ? GROUPS[panel.group[Number(tile.dataset.channel)]] : null;
    if (group !== pointed) faultline.emit("pointed-tile", group ? { layer: panel.layer, group } : null);
    pointed = group;
    const neighbour = event.target.closest?.("[data-pick-layer]");
    const near = neighbour && panel && neighbour.dataset.pickLayer === panel.layer ? drawn.buttons[Number(neighbour.dataset.pickChannel)] : null;
    if (near !== linked) { linked?.classList.remove("is-linked"); near?.classList.add("is-linked"); }
    linked = near;
    if (neighbour) faultline.emit("pointed-tile", { layer: neighbour.dataset.pickLayer, group: null });
  }

  let pointed = null;
  let linked = null;
  function follow(bar) {
    const tiles = byId("layer-tiles");
    if (bar && drawn.panel && bar.layer === drawn.panel.layer && bar.group) tiles.dataset.pointed = bar.group;
    else delete tiles.dataset.pointed;
  }
  faultline.on("pointed-bar", follow);
  document.addEventListener("pointerover", point);
  faultline.on("ask:neuron", choose);
  faultline.on("combination", (bits) => {
    drawn.combination = bits;
    if (drawn.panel) arrange(drawn.panel, chosen.group, chosen.sort);
  });
  faultline.on("view", restore);
  document.addEventListener("click", click);
  document.addEventListener("keydown", (event) => { if (event.target.closest?.("#layer-tiles")) move(event); });
  document.addEventListener("pointerover", explain);
  document.addEventListener("focusin", explain);
  window.dash_clientside = Object.assign({}, window.dash_clientside, { tiles: { controls, tell } });
})();
