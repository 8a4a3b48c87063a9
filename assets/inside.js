/* Inside the model of a run: asked while its page is shown; every choice is a step of the link. */
(function () {
  'use strict';

  const { built, byId, offer, on, panel, pick, renew, say } = window.faultline;
  const FIELDS = ['role', 'ended', 'attacks', 'classes', 'within'];
  const SEVERAL = ['attacks', 'classes'];
  let view = {};
  let run = null;
  let shown = null;
  /* Answers to the present choice that are still to come. */
  let due = 0;

  const wish = () => ({ run, theme: view.theme || 'light', ...Object.fromEntries(FIELDS.map((name) => [name, view[name] || null])) });

  function ask() {
    const section = byId('inside');
    if (view.page !== 'audits' || !run) {
      [panels.own, panels.small].forEach((one) => one.forget());
      if (section) { section.hidden = true; }
      return;
    }
    const next = wish();
    if (JSON.stringify(next) === JSON.stringify(panels.own.wanted)) { return; }
    // What still stands there is of another choice until the answer comes.
    section.setAttribute('aria-busy', 'true');
    due = 2;
    panels.own.want(next);
    panels.small.want(next);
  }

  function draw(facts, wanted) {
    // A run that was not finished now is: the other panel does not look by itself.
    if (shown && shown.wanted === wanted && shown.facts.state !== facts.state) { panels.small.again(); }
    shown = { facts, wanted };
    byId('inside').hidden = false;
    arrived();
    renew('inside-controls', ...facts.controls.map(built));
    say('inside-lead', facts.lead);
    renew('inside-layers-note', ...facts.layers.map(built));
    renew('inside-classes-note', ...facts.classes.map(built));
    renew('inside-maps', ...facts.maps.map(built));
    byId('inside-layers-part').hidden = !facts.layers.length;
    byId('inside-classes-part').hidden = !facts.classes.length;
    window.dispatchEvent(new Event('resize'));
  }

  function arrived() {
    due -= 1;
    if (due <= 0) { byId('inside').removeAttribute('aria-busy'); }
  }

  function drawSmall({ height }) {
    arrived();
    byId('inside-classes').style.height = `${height}px`;
    window.dispatchEvent(new Event('resize'));
  }

  const panels = { own: panel('inside', { draw }), small: panel('inside-classes', { draw: drawSmall }) };

  on('view', (next) => {
    if (next.run && next.run !== view.run) { run = next.run; }
    view = next;
    ask();
  });
  // A link that names no run shows the newest one: the list says which.
  on('run', (next) => { if (next !== run) { run = next; ask(); } });

  on('rebuilt', () => { [panels.own, panels.small].forEach((one) => one.again()); });

  function toggled(field, value) {
    if (field === 'share') { return value ? Number(value) : null; }
    if (!value || !SEVERAL.includes(field)) { return value || null; }
    const chosen = new Set((view[field] || '').split(',').filter(Boolean));
    if (!chosen.delete(value)) { chosen.add(value); }
    return [...chosen].map(Number).sort((a, b) => a - b).join(',') || null;
  }

  document.addEventListener('click', (event) => {
    const button = event.target.closest?.('[data-inside]');
    if (button) { pick({ [button.dataset.inside]: toggled(button.dataset.inside, button.dataset.value) }); }
  });

  offer('inside', () => {
    if (!shown || shown.facts.state !== 'ready') { return []; }
    const own = { about: { name: `run-${shown.wanted.run.slice(0, 12)}`, line: shown.facts.line } };
    const { chart, table } = window.faultline.saving;
    return [
      ...chart('inside-river', 'River of the run', 'river'),
      ...table('#inside-river-note table', 'River of the run as a table', 'river-layers'),
      ...chart('inside-layers-part', 'Layer by layer', 'layers'),
      ...chart('inside-classes-part', 'Class by class', 'classes'),
      ...table('#inside-maps table', 'Feature maps', 'maps'),
    ].map((one) => ({ ...one, ...own }));
  });
})();
