/* The causal test of a run's weak channels: asked with the choices of Inside the model, begun and stopped by buttons. */
(function () {
  'use strict';

  const { built, offer, renew, runPanel, say } = window.faultline;
  let shown = null;

  function draw(facts, wanted) {
    shown = { facts, wanted };
    say('held-out-lead', facts.lead);
    renew('held-out', ...facts.body.map(built));
  }

  const tests = runPanel('held-out', { fields: ['role', 'attacks', 'classes'], section: 'held-out-part', draw });

  document.addEventListener('click', (event) => {
    const button = event.target.closest?.('[data-held-out]');
    if (!button || !tests.wanted) { return; }
    button.disabled = true;
    tests.want({ ...tests.wanted, act: button.dataset.heldOut, count: Number(button.dataset.count) });
  });

  offer('held-out', () => {
    if (!shown || !shown.facts.body.length) { return []; }
    const about = { name: `run-${shown.wanted.run.slice(0, 12)}`, line: shown.facts.line };
    return window.faultline.saving.table('#held-out table', 'Causal test of the weak channels', 'held-out')
      .map((one) => ({ ...one, about }));
  });
})();
