/* The river in the browser: a click picks a column, the picked one is outlined (narrowly where it is not shown), the page still scrolls over it. */
(function () {
  'use strict';

  let layer = null;
  const graph = () => document.querySelector('#network-river .js-plotly-plot');
  const meta = (plot) => (plot && plot.layout && plot.layout.meta) || {};
  const columns = (plot) => meta(plot).columns || [];

  function open(name) {
    if (name) { window.dash_clientside.set_props('pick', { data: { layer: name, t: Date.now() } }); }
  }

  function follow(name) {
    const [kind, first, last] = name.split(':');
    if (kind === 'site') { open(name.slice('site:'.length)); }
    if (kind === 'stage') {
      window.Plotly.relayout(graph(), { 'xaxis.range': [Number(first) - 0.6, Number(last) + 0.6] });
    }
  }

  function pick(click, label) {
    const triggered = window.dash_clientside.callback_context.triggered[0];
    if (triggered && triggered.prop_id.endsWith('clickAnnotationData')) {
      if (label && label.annotation) { follow(label.annotation.name || ''); }
      return;
    }
    if (!click) { return; }
    const x = click.points && click.points.length ? click.points[0].x : click.xvals && click.xvals[0];
    if (typeof x === 'number') { open(columns(graph())[Math.round(x)]); }
  }

  function mark() {
    const plot = graph();
    if (!plot || !plot.layout) { return; }
    const index = (plot.layout.shapes || []).findIndex((shape) => shape.name === 'selected');
    if (index < 0) { return; }
    const place = (meta(plot).places || {})[layer];
    const wanted = place !== undefined;
    const half = columns(plot).includes(layer) ? 0.5 : 0.1;
    const shape = plot.layout.shapes[index];
    if (Boolean(shape.visible) === wanted && (!wanted || shape.x0 === place - half)) { return; }
    const at = `shapes[${index}].`;
    const ends = wanted ? { [at + 'x0']: place - half, [at + 'x1']: place + half } : {};
    window.Plotly.relayout(plot, { [at + 'visible']: wanted, ...ends });
  }

  /* The wheel zooms only with Ctrl held, so that the page can be scrolled past the plot. */
  function prepare(plot) {
    if (plot.dataset.prepared) { return; }
    plot.dataset.prepared = 'yes';
    plot.on('plotly_afterplot', () => {
      mark();
      window.dash_clientside.view.follow();
    });
    plot.addEventListener('wheel', (event) => { if (!event.ctrlKey) { event.stopPropagation(); } }, true);
  }

  const HOW = 'Drag to pan, Ctrl and wheel to zoom, click a stage name to zoom into it.';

  function select(ask, figure) {
    const note = figure && figure.layout && figure.layout.meta ? figure.layout.meta.note : null;
    document.getElementById('river-note').textContent = note === null ? '' : `${note} ${HOW}`.trim();
    layer = ask ? ask.layer : null;
    const plot = graph();
    if (plot && plot.on) {
      prepare(plot);
      mark();
    }
  }

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.river = { pick, select };
})();
