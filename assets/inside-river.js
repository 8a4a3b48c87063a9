/* The river of a run: asked while its page is shown. A click on a column lists the layer's channels, one on a stage folds it. */
(function () {
  'use strict';

  const { built, byId, on, panel, pick, renew, say } = window.faultline;
  const FIELDS = ['role', 'ended', 'attacks', 'classes', 'share', 'detail', 'folded', 'versus'];
  let view = {};
  let run = null;
  let pressed = null;

  const wish = () => ({ run, theme: view.theme || 'light', ...Object.fromEntries(FIELDS.map((name) => [name, view[name] || null])) });
  const plot = () => document.querySelector('#inside-river .js-plotly-plot');
  const columns = () => plot()?.layout?.meta?.columns || [];

  function ask() {
    if (view.page !== 'audits' || !run) { own.forget(); byId('inside-river-part')?.setAttribute('hidden', ''); return; }
    const next = wish();
    if (JSON.stringify(next) === JSON.stringify(own.wanted)) { return; }
    byId('inside-river-part').setAttribute('aria-busy', 'true');
    own.want(next);
  }

  function draw(facts) {
    const part = byId('inside-river-part');
    part.removeAttribute('aria-busy');
    part.hidden = facts.state !== 'ready' && !facts.lead;
    say('inside-river-lead', facts.lead || '');
    renew('inside-river-controls', ...(facts.controls || []).map(built));
    renew('inside-river-note', ...(facts.note || []).map(built));
    const frame = byId('inside-river');
    frame.hidden = facts.state !== 'ready';
    if (facts.height) { frame.style.height = `${facts.height}px`; }
    window.dispatchEvent(new Event('resize'));
    window.setTimeout(prepare);
  }

  function list(layer) { if (layer) { pick({ within: layer }); } }

  /* Plotly makes the plot once; its listeners stay. */
  function prepare() {
    const drawn = plot();
    if (!drawn || !drawn.on || drawn.dataset.prepared) { return; }
    drawn.dataset.prepared = 'yes';
    drawn.addEventListener('pointerdown', (event) => { pressed = event.clientX; }, true);
    drawn.on('plotly_click', () => {
      if (pressed === null) { return; }
      const axis = drawn._fullLayout.xaxis;
      list(columns()[Math.round(axis.p2d(pressed - drawn.getBoundingClientRect().left - axis._offset))]);
    });
    drawn.on('plotly_clickannotation', ({ annotation }) => {
      window.Plotly.Fx.unhover(drawn);
      const [kind, ...rest] = (annotation.name || '').split(':');
      if (kind === 'site') { list(rest.join(':')); }
      if (kind === 'stage') { pick({ fold: rest.join(':') }); }
    });
  }

  const own = panel('inside-river', { draw });

  on('view', (next) => {
    if (next.run && next.run !== view.run) { run = next.run; }
    view = next;
    ask();
  });
  on('run', (next) => { if (next !== run) { run = next; ask(); } });
})();
