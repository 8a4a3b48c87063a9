/* Fooled into which class: asked with the choices of Inside the model. */
(function () {
  'use strict';

  const { built, byId, offer, renew, runPanel, say } = window.faultline;
  let shown = null;

  function draw(facts, wanted) {
    shown = { facts, wanted };
    say('confusion-lead', facts.lead);
    renew('confusion-flows', ...facts.flows.map(built));
    renew('confusion-curve-note', ...facts.curve.map(built));
    byId('confusion-curve-part').hidden = !facts.has_curve;
    window.dispatchEvent(new Event('resize'));
  }

  runPanel('confusion', { fields: ['role', 'attacks', 'classes'], section: 'confusion', draw });

  offer('confusion', () => {
    if (!shown || shown.facts.state !== 'ready') { return []; }
    const own = { about: { name: `run-${shown.wanted.run.slice(0, 12)}`, line: shown.facts.line } };
    const { chart, table } = window.faultline.saving;
    return [
      ...chart('confusion-curve-part', 'Accuracy as epsilon grows', 'epsilon'),
      ...table('#confusion-flows .twin table, #confusion-flows > .table-scroll table', 'From class into class', 'confusion'),
    ].map((one) => ({ ...one, ...own }));
  });
})();
