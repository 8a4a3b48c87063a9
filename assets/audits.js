/* The audits page: which page is shown, which run is looked at, asked again while any run goes on. */
(function () {
  'use strict';

  const { built, byId, fill, make, on, panel, pick, renew } = window.faultline;

  on('view', (view) => {
    const isShown = view.page === 'audits';
    if (isShown) { audits.want({ run: view.run || null, theme: view.theme }); } else { audits.forget(); }
    // Every step of a view comes by here; plots need a resize only where another page is shown.
    const page = view.page || 'explain';
    if (document.body.dataset.page === page) { return; }
    document.body.dataset.page = page;
    document.querySelectorAll('[data-page-tab]').forEach((tab) => {
      tab.setAttribute('aria-current', tab.dataset.pageTab === document.body.dataset.page ? 'page' : 'false');
    });
    window.dispatchEvent(new Event('resize'));
  });

  /* Runs that were just told to stop or to go on: said at once, and until the server has taken it in. */
  const pressed = new Map();

  function press(order, run, text) {
    pressed.set(run, text);
    markPressed();
    order.want({ run });
  }

  function markPressed() {
    document.querySelectorAll('#audit-list :is([data-cancel], [data-resume])').forEach((button) => {
      const text = pressed.get(button.dataset.cancel || button.dataset.resume);
      if (text) { Object.assign(button, { disabled: true, textContent: text }); }
    });
  }

  function draw(facts) {
    renew('audit-list', ...facts.list.map(built));
    markPressed();
    renew('audit', ...facts.audit.map(built));
    const part = byId('audit-curve-part');
    if (part.hidden === facts.has_curve) {
      part.hidden = !facts.has_curve;
      window.dispatchEvent(new Event('resize'));
    }
  }

  /* A run was to stop or to go on, or could not; the runs are looked at again either way. */
  function told({ problem }) {
    pressed.clear();
    fill('audit-problem', problem ? make('p', { class: 'warning' }, problem) : '');
    audits.again();
  }

  const audits = panel('audits', { draw });
  const stopping = panel('audit-stop', { draw: told });
  const resuming = panel('audit-resume', { draw: told });

  document.addEventListener('click', (event) => {
    const tab = event.target.closest?.('[data-page-tab]');
    const run = event.target.closest?.('[data-run]');
    const stop = event.target.closest?.('[data-cancel]');
    const resume = event.target.closest?.('[data-resume]');
    if (tab) { pick({ page: tab.dataset.pageTab }); }
    if (run) { pick({ run: run.dataset.run }); }
    if (stop) { press(stopping, stop.dataset.cancel, 'Stopping …'); }
    if (resume) { press(resuming, resume.dataset.resume, 'Starting …'); }
  });
})();
