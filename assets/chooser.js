/* Choosing channels to patch: by click or by a rectangle over tiles or bars. What is chosen stays in the browser until it is tested. */
(function () {
  'use strict';

  const { byId, emit, fill, make, on } = window.faultline;
  const JOIN = '~';
  const LONGEST = 1990;
  const STILL = 4;
  const GROUPS = ['clean', 'shared', 'adversarial'];
  /* Whole groups of a layer by their term, and single maps by layer. */
  const chosen = { groups: new Set(), maps: new Map() };
  const state = { isOn: false, panel: null, buttons: [], from: null, skipClick: false };

  /* ---- the choice ---- */
  function channelsOf(text) {
    return text.split('.').flatMap((run) => {
      const [first, last] = run.split('-').map(Number);
      return Array.from({ length: (last || first) - first + 1 }, (_, k) => first + k);
    });
  }

  function runsOf(channels) {
    const runs = [];
    [...channels].sort((a, b) => a - b).forEach((one) => {
      const last = runs[runs.length - 1];
      if (last && one === last[1] + 1) { last[1] = one; } else { runs.push([one, one]); }
    });
    return runs.map(([first, last]) => (first === last ? `${first}` : `${first}-${last}`)).join('.');
  }

  const termOf = (layer, channels) => `map:${layer}:${runsOf(channels)}`;
  const text = () => [...chosen.groups, ...[...chosen.maps].map(([layer, channels]) => termOf(layer, channels))].join(JOIN);

  /* The choice that a link tests stands here too, so that it can be changed. */
  function read(patch) {
    const terms = (patch || '').replace('inject:', '').split(JOIN);
    if (!patch || terms.some((term) => /^(flow|standout):/.test(term))) { return; }
    if (patch.replace('inject:', '') === text()) { return; }
    chosen.groups.clear();
    chosen.maps.clear();
    terms.forEach((term) => {
      const found = /^map:(.+):([\d.-]+)$/.exec(term);
      if (found) { chosen.maps.set(found[1], new Set(channelsOf(found[2]))); } else { chosen.groups.add(term); }
    });
    show();
  }

  const layerOf = (term) => term.slice(term.indexOf(':') + 1);
  const groupOf = (term) => term.slice(0, term.indexOf(':'));

  function isChosen(layer, channel) {
    const group = state.panel && state.panel.layer === layer ? GROUPS[state.panel.group[channel]] : null;
    return Boolean(chosen.maps.get(layer)?.has(channel)) || chosen.groups.has(`${group}:${layer}`);
  }

  /* Whole groups of the layer that is drawn become single maps, so that one of them can be left out. */
  function unfold() {
    const { layer, group } = state.panel;
    [...chosen.groups].filter((term) => layerOf(term) === layer).forEach((term) => {
      const members = group.map((_, channel) => channel).filter((channel) => GROUPS[group[channel]] === groupOf(term));
      chosen.maps.set(layer, new Set([...(chosen.maps.get(layer) || []), ...members]));
      chosen.groups.delete(term);
    });
  }

  function toggle(channels, wanted) {
    const { layer } = state.panel;
    unfold();
    const own = chosen.maps.get(layer) || new Set();
    channels.forEach((channel) => { if (wanted) { own.add(channel); } else { own.delete(channel); } });
    if (own.size) { chosen.maps.set(layer, own); } else { chosen.maps.delete(layer); }
    show();
  }

  function toggleGroups(terms) {
    const isNew = terms.some((term) => !chosen.groups.has(term));
    terms.forEach((term) => { if (isNew) { chosen.groups.add(term); } else { chosen.groups.delete(term); } });
    show();
  }

  function clear() {
    chosen.groups.clear();
    chosen.maps.clear();
    show();
  }

  /* ---- what stands on the page ---- */
  function chips() {
    const drop = (label, remove) => {
      const button = make('button', { class: 'chip', 'aria-label': `Leave out ${label}` }, label, make('span', { 'aria-hidden': 'true' }, ' ×'));
      button.addEventListener('click', () => { remove(); show(); });
      return button;
    };
    return [
      ...[...chosen.groups].map((term) => drop(`${groupOf(term)}${groupOf(term) === 'shared' ? '' : '-only'} of ${layerOf(term)}`,
        () => chosen.groups.delete(term))),
      ...[...chosen.maps].map(([layer, channels]) => drop(
        channels.size === 1 ? `map ${[...channels][0]} of ${layer}` : `${channels.size} maps of ${layer}`, () => chosen.maps.delete(layer))),
    ];
  }

  function show() {
    const isEmpty = !chosen.groups.size && !chosen.maps.size;
    const isLong = text().length > LONGEST;
    byId('choice').hidden = isEmpty && !state.isOn;
    byId('choice-test').textContent = isEmpty ? 'Test them' : `Test ${total()}`;
    markBars();
    byId('choice-test').disabled = isEmpty || isLong;
    byId('choice-clear').disabled = isEmpty;
    fill('choice-terms', ...(isEmpty ? ['Nothing yet: click maps or bars, or draw a rectangle over them.'] : chips()),
      isLong ? make('span', { role: 'alert' }, 'Too many single maps for one link: choose whole groups, or fewer.') : '');
    mark();
  }

  /* How many channels are chosen: counted where the layer is drawn, else by whole groups. */
  function total() {
    const single = [...chosen.maps.values()].reduce((sum, channels) => sum + channels.size, 0);
    const groups = chosen.groups.size;
    return [single ? `${single} channels` : '', groups ? `${groups} groups` : ''].filter(Boolean).join(' and ');
  }

  /* The bars whose groups are chosen are framed in the river. */
  function markBars() {
    const frame = document.querySelector('.river-frame');
    frame.querySelectorAll('.chosen-bar').forEach((node) => node.remove());
    if (!chosen.groups.size || !document.querySelector('#network-river .js-plotly-plot')?._fullLayout?.xaxis) { return; }
    const { left, top } = frame.getBoundingClientRect();
    bars().filter((bar) => chosen.groups.has(bar.term)).forEach((bar) => frame.append(make('i', { class: 'chosen-bar', style: {
      left: `${bar.left - left + frame.scrollLeft}px`, top: `${bar.top - top + frame.scrollTop}px`, width: `${bar.right - bar.left}px`, height: `${bar.bottom - bar.top}px` } })));
  }

  function mark() {
    state.buttons.forEach((tile, channel) => tile.classList.toggle('is-chosen', isChosen(state.panel.layer, channel)));
  }

  function turn(isOn) {
    state.isOn = isOn;
    document.body.classList.toggle('is-choosing', isOn);
    document.querySelectorAll('[data-choosing]').forEach((button) => button.setAttribute('aria-pressed', String(isOn)));
    show();
  }

  /* ---- rectangles ---- */
  const frame = () => byId('lasso') || document.body.appendChild(make('div', { id: 'lasso', hidden: '' }));
  const spanned = (from, to) => ({
    left: Math.min(from.x, to.x), right: Math.max(from.x, to.x), top: Math.min(from.y, to.y), bottom: Math.max(from.y, to.y) });
  const meets = (a, b) => a.left <= b.right && b.left <= a.right && a.top <= b.bottom && b.top <= a.bottom;

  /* The bars of the river as boxes on the screen. */
  function bars() {
    const plot = document.querySelector('#network-river .js-plotly-plot');
    const { xaxis, yaxis } = plot._fullLayout;
    const origin = plot.getBoundingClientRect();
    const names = plot.layout.meta.columns;
    const x = (value) => origin.left + xaxis._offset + xaxis.d2p(value);
    const y = (value) => origin.top + yaxis._offset + yaxis.d2p(value);
    return GROUPS.flatMap((group) => {
      const trace = plot._fullData.find((one) => one.name === `bars ${group}`);
      if (!trace) { return []; }
      return Array.from(trace.x, (place, k) => ({
        term: `${group}:${names[place]}`, isSite: names[place] !== null, left: x(place - trace.width / 2), right: x(place + trace.width / 2),
        top: y(trace.base[k] + trace.y[k]), bottom: y(trace.base[k]) })).filter((bar) => bar.isSite && bar.bottom - bar.top > 0);
    });
  }

  function press(event) {
    if (!state.isOn || event.button !== 0 || event.pointerType === 'touch') { return; }
    const place = event.target.closest?.('#layer-tiles') ? 'tiles' : event.target.closest?.('#network-river') ? 'river' : null;
    if (!place) { return; }
    // The river pans by dragging otherwise.
    if (place === 'river') { event.stopPropagation(); }
    event.preventDefault();
    const panel = byId(place === 'river' ? 'network-river' : 'layer-tiles');
    const { left, top } = panel.getBoundingClientRect();
    state.from = { panel, place, x: event.clientX - left + panel.scrollLeft, y: event.clientY - top + panel.scrollTop };
  }

  /* The rectangle on the screen: its first corner stays where it was put on the panel, also when that scrolls meanwhile. */
  function drawn(from, event) {
    const { left, top } = from.panel.getBoundingClientRect();
    return spanned({ x: from.x + left - from.panel.scrollLeft, y: from.y + top - from.panel.scrollTop }, { x: event.clientX, y: event.clientY });
  }

  function move(event) {
    if (!state.from) { return; }
    const box = drawn(state.from, event);
    const lasso = frame();
    lasso.hidden = box.right - box.left < STILL && box.bottom - box.top < STILL;
    document.body.classList.toggle('is-drawing', !lasso.hidden);
    Object.assign(lasso.style, { left: `${box.left}px`, top: `${box.top}px`, width: `${box.right - box.left}px`, height: `${box.bottom - box.top}px` });
  }

  function release(event) {
    const from = state.from;
    state.from = null;
    if (!from) { return; }
    const wasDrawn = !frame().hidden;
    frame().hidden = true;
    document.body.classList.remove('is-drawing');
    const box = drawn(from, event);
    if (from.place === 'river') {
      const hit = bars().filter((bar) => meets(bar, box)).map((bar) => bar.term);
      if (hit.length) { toggleGroups(hit); }
    } else if (wasDrawn) {
      state.skipClick = true;
      window.setTimeout(() => { state.skipClick = false; }, 0);
      const tiles = [...document.querySelectorAll('#layer-tiles .tile')].filter((tile) => meets(tile.getBoundingClientRect(), box));
      const channels = tiles.map((tile) => Number(tile.dataset.channel));
      if (channels.length) { toggle(channels, channels.some((one) => !isChosen(state.panel.layer, one))); }
    }
  }

  /* Clicks and keys on tiles choose instead of opening; those on the river were handled when the button was released. */
  function click(event) {
    const tile = event.target.closest?.('#layer-tiles .tile');
    const button = event.target.closest?.('[data-choosing], [data-choose]');
    if (button && button.dataset.choosing !== undefined) { turn(!state.isOn); return; }
    if (button) { toggleGroups([button.dataset.choose]); return; }
    if (!state.isOn) { return; }
    if (event.target.closest?.('#network-river')) { event.stopPropagation(); return; }
    if (!tile || !state.panel) { return; }
    event.stopPropagation();
    if (state.skipClick) { return; }
    const channel = Number(tile.dataset.channel);
    toggle([channel], !isChosen(state.panel.layer, channel));
  }

  window.addEventListener('pointerdown', press, true);
  for (const kind of ['mousedown', 'mouseup']) {
    window.addEventListener(kind, (event) => {
      if (state.isOn && event.target.closest?.('#network-river')) { event.stopPropagation(); }
    }, true);
  }
  window.addEventListener('pointermove', move);
  window.addEventListener('pointerup', release);
  window.addEventListener('keydown', (event) => { if (event.key === 'Escape' && state.isOn) { turn(false); } });
  document.addEventListener('click', click, true);
  document.addEventListener('click', (event) => {
    if (event.target.closest?.('#choice-clear')) { clear(); }
    if (event.target.closest?.('#choice-test')) { emit('patch', text()); turn(false); byId('choice').hidden = true; }
  });
  on('ask:causal-test', (next) => read(next && next.patch));
  on('river', markBars);
  on('tiles', (shown) => {
    Object.assign(state, shown);
    mark();
  });
})();
