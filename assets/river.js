/* The river in the browser: a click picks a column, the picked one is outlined (narrowly where it is not shown), the page still scrolls over it. */
(function () {
  'use strict';

  const { emit, make, on } = window.faultline;
  const choose = window.faultline.pick;
  let layer = null;
  let pressed = null;
  document.addEventListener('pointerdown', (event) => {
    if (event.target.closest?.('#network-river')) { pressed = event.clientX; }
  }, true);
  const graph = () => document.querySelector('#network-river .js-plotly-plot');
  const meta = (plot) => (plot && plot.layout && plot.layout.meta) || {};
  const columns = (plot) => meta(plot).columns || [];

  /* What stands between the distance and the river. */
  let lane = 'flow';
  on('view', (view) => {
    lane = view.lane || 'flow';
    document.querySelectorAll('[data-lane]').forEach((button) => { button.textContent = lane === 'flow' ? 'Show localisation' : 'Show conductance'; });
  });
  document.addEventListener('click', (event) => {
    const button = event.target.closest?.('[data-lane]');
    if (button) { choose({ lane: button.dataset.lane === lane ? 'flow' : button.dataset.lane }); }
  });

  function open(name) {
    if (name) { choose({ layer: name }); }
  }

  function follow(name) {
    const kind = name.slice(0, name.indexOf(':'));
    const rest = name.slice(kind.length + 1);
    if (kind === 'site') { open(rest); }
    if (kind === 'stage') { choose({ fold: rest }); }
  }

  function pick(click, label) {
    const triggered = window.dash_clientside.callback_context.triggered[0];
    if (triggered && triggered.prop_id.endsWith('clickAnnotationData')) {
      if (label && label.annotation) { follow(label.annotation.name || ''); }
      return;
    }
    const plot = graph();
    if (!click || !plot || pressed === null) { return; }
    // Where the mouse was, not the nearest point: between narrow columns that may be a band's, which lies nearer to the next one.
    const axis = plot._fullLayout.xaxis;
    open(columns(plot)[Math.round(axis.p2d(pressed - plot.getBoundingClientRect().left - axis._offset))]);
  }

  /* The outline of the picked column is an element over the plot: drawing it never draws the plot again. */
  function outline(plot) {
    const frame = plot.closest('.river-frame');
    const there = frame.querySelector('.outline');
    if (there) { return there; }
    const made = make('div', { class: 'outline', hidden: '' });
    frame.append(made);
    return made;
  }

  function mark() {
    const plot = graph();
    const axis = plot && plot._fullLayout && plot._fullLayout.xaxis;
    if (!axis || !meta(plot).places) { return; }
    const place = meta(plot).places[layer];
    const box = outline(plot);
    const size = plot._fullLayout._size;
    const half = columns(plot).includes(layer) ? 0.5 : 0.1;
    const [left, right] = [place - half, place + half].map((x) => Math.min(axis._length, Math.max(0, axis.d2p(x))));
    box.hidden = place === undefined || right - left < 1;
    // A layer without a column of its own says its name.
    box.dataset.name = columns(plot).includes(layer) ? '' : layer || '';
    const top = size.t + (1 - meta(plot).top) * size.h;
    Object.assign(box.style, { left: `${axis._offset + left}px`, width: `${right - left}px`, top: `${top}px`,
      height: `${meta(plot).top * size.h}px` });
    // The title between the plots is not crossed.
    const { top: high, gap } = meta(plot);
    const [from, to] = [gap[1], gap[0]].map((edge) => `${100 * (high - edge) / high}%`);
    box.style.setProperty('mask-image', `linear-gradient(#000 ${from}, transparent ${from} ${to}, #000 ${to})`);
  }

  /* The frame is as high as its drawing: a second river needs room. */
  function fit(plot) {
    const frame = plot.closest('#network-river');
    if (!meta(plot).height) { return; }
    const wanted = `${meta(plot).height}px`;
    if (frame.style.height === wanted) { return; }
    frame.style.height = wanted;
    window.Plotly.Plots.resize(plot);
  }

  /* The wheel zooms only with Ctrl held, so that the page can be scrolled past the plot. */
  /* ---- linked highlighting ---- */
  const GROUPS = ['clean', 'shared', 'adversarial'];

  function pointedBar(event) {
    const point = event.points.find(({ data }) => data.name && data.name.startsWith('bars '));
    const name = point && columns(graph())[point.x];
    emit('pointed-bar', name ? { layer: name, group: point.data.name.slice('bars '.length) } : null);
  }

  /* The bar of a group at a layer, framed by an element over the plot. */
  function light(pointed) {
    const plot = graph();
    const frame = plot && plot.closest('.river-frame');
    frame?.querySelector('.lit')?.remove();
    if (!pointed || !frame || !meta(plot).places || meta(plot).places[pointed.layer] === undefined) { return; }
    const { xaxis, yaxis } = plot._fullLayout;
    const column = columns(plot).indexOf(pointed.layer);
    const trace = plot._fullData.find((one) => one.name === `bars ${pointed.group}`);
    const at = trace ? [...trace.x].indexOf(column) : -1;
    const x = (value) => xaxis._offset + xaxis.d2p(value);
    const y = (value) => yaxis._offset + yaxis.d2p(value);
    const place = meta(plot).places[pointed.layer];
    const box = at < 0 ? { left: x(place - 0.12), right: x(place + 0.12), top: yaxis._offset, bottom: yaxis._offset + yaxis._length }
      : { left: x(column - trace.width / 2), right: x(column + trace.width / 2), top: y(trace.base[at] + trace.y[at]), bottom: y(trace.base[at]) };
    frame.append(make('i', { class: 'lit', style: { left: `${box.left - 2}px`, top: `${box.top - 2}px`, width: `${box.right - box.left + 4}px`,
      height: `${box.bottom - box.top + 4}px` } }));
  }

  on('pointed-tile', light);

  /* ---- the whole river again ---- */
  function isMoved(plot) {
    const [low, high] = plot._fullLayout.xaxis.range;
    return Math.abs(low + 0.6) > 0.01 || Math.abs(high - columns(plot).length + 0.4) > 0.01;
  }

  function reset() {
    const plot = graph();
    window.Plotly.relayout(plot, { 'xaxis.range': [-0.6, columns(plot).length - 0.4] });
  }

  document.addEventListener('click', (event) => { if (event.target.closest?.('#river-reset')) { reset(); } });

  /* Arrow keys walk the columns where the river has the keyboard. */
  document.addEventListener('keydown', (event) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const plot = graph();
    if (!by || !event.target.matches?.('.river-frame') || !plot) { return; }
    event.preventDefault();
    const names = columns(plot);
    const at = names.includes(layer) ? names.indexOf(layer) + by : Math.round((meta(plot).places || {})[layer] || 0);
    if (names[at]) { open(names[at]); }
  });

  /* On paper the river is as wide as the page, whatever it was on the screen. */
  const PAPER = 1000;
  function shrink(plot) {
    plot.closest('.river-frame').style.setProperty('--print-zoom', Math.min(1, PAPER / plot._fullLayout.width));
  }

  function prepare() {
    const plot = graph();
    if (!plot || !plot.on || plot.dataset.prepared) { mark(); return; }
    fit(plot);
    shrink(plot);
    plot.dataset.prepared = 'yes';
    plot.on('plotly_afterplot', () => {
      fit(plot);
      shrink(plot);
      mark();
      document.getElementById('river-reset').hidden = !isMoved(plot);
      emit('river');
    });
    plot.on('plotly_hover', pointedBar);
    plot.on('plotly_unhover', () => emit('pointed-bar', null));
    // A label of what was folded a moment ago must not stay over the plot.
    plot.on('plotly_clickannotation', () => window.Plotly.Fx.unhover(plot));
    plot.on('plotly_relayouting', () => { outline(plot).hidden = true; });
    plot.addEventListener('wheel', (event) => { if (!event.ctrlKey) { event.stopPropagation(); } }, true);
    mark();
  }

  on('network', prepare);
  on('ask:layer', (ask) => {
    layer = ask ? ask.layer : null;
    mark();
  });

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.river = { pick };
})();
