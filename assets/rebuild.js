/* Damaged files of a run's result: named, and rebuilt by a button; what could not be shown is then asked for again. */
(function () {
  'use strict';

  const { built, byId, emit, renew, runPanel } = window.faultline;
  let state = 'whole';

  function draw(facts) {
    byId('rebuild-part').hidden = facts.state === 'whole';
    renew('rebuild', ...facts.body.map(built));
    const isMended = facts.state === 'whole' && state !== 'whole';
    state = facts.state;
    if (isMended) { emit('rebuilt'); }
  }

  const rebuild = runPanel('rebuild', { fields: [], section: 'rebuild-part', draw });

  document.addEventListener('click', (event) => {
    const button = event.target.closest?.('[data-rebuild]');
    if (!button || !rebuild.wanted) { return; }
    button.disabled = true;
    rebuild.want({ ...rebuild.wanted, act: button.dataset.rebuild });
  });
})();
