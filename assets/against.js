/* Candidate against baseline inside a run, and the matching of their feature maps that a button asks for. */
(function () {
  'use strict';

  const { built, byId, offer, on, panel, renew, runPanel, say } = window.faultline;
  let shown = null;

  function draw(facts, wanted) {
    shown = { facts, wanted };
    byId('against').hidden = facts.state === 'one model';
    say('against-lead', facts.lead);
    renew('against-sides', ...facts.sides.map(built));
    renew('against-layers', ...facts.layers.map(built));
    byId('against-part').hidden = !facts.has_layers;
    window.dispatchEvent(new Event('resize'));
    if (facts.state === 'ready' && matching.wanted?.run !== wanted.run) { matching.want({ run: wanted.run, act: 'look' }); }
  }

  const matching = panel('matching', { draw: (facts) => renew('matching', ...facts.body.map(built)) });
  runPanel('against', { fields: ['attacks', 'classes'], section: 'against', draw });
  on('view', (view) => { if (view.page !== 'audits') { matching.forget(); } });

  document.addEventListener('click', (event) => {
    const button = event.target.closest?.('[data-matching]');
    if (!button || !shown) { return; }
    button.disabled = true;
    matching.want({ run: shown.wanted.run, act: button.dataset.matching });
  });

  offer('against', () => {
    if (!shown || shown.facts.state !== 'ready') { return []; }
    const own = { about: { name: `run-${shown.wanted.run.slice(0, 12)}`, line: shown.facts.line } };
    const { chart, table } = window.faultline.saving;
    return [
      ...chart('against-part', 'Layers beside each other', 'versus-layers'),
      ...table('#against-sides table', 'Images that changed side', 'versus-sides'),
      ...table('#matching > .table-scroll table', 'Feature maps matched', 'matching'),
    ].map((one) => ({ ...one, ...own }));
  });
})();
