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
    const top = size.t + (1 - meta(plot).top) * size.h;
    Object.assign(box.style, { left: `${axis._offset + left}px`, width: `${right - left}px`, top: `${top}px`,
      height: `${meta(plot).top * size.h}px` });
  }

  /* The frame is as high as its drawing: a second river needs room. */
  function fit(plot) {
    const frame = plot.closest('#network-river');
    const wanted = `${meta(plot).height || 640}px`;
    if (frame.style.height === wanted) { return; }
    frame.style.height = wanted;
    window.Plotly.Plots.resize(plot);
  }

  /* The wheel zooms only with Ctrl held, so that the page can be scrolled past the plot. */
  function prepare() {
    const plot = graph();
    if (!plot || !plot.on || plot.dataset.prepared) { mark(); return; }
    fit(plot);
    plot.dataset.prepared = 'yes';
    plot.on('plotly_afterplot', () => {
      fit(plot);
      mark();
      emit('river');
    });
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
