/* The audits page: which page is shown, which run is looked at, asked again while any run goes on. */
(function () {
  'use strict';

  const { built, byId, emit, fill, make, on, panel, pick, renew, say } = window.faultline;
  /* How the list is sorted and filtered: said with every look, so that the server leaves out what is not asked for. */
  const listing = { order: '-begun', find: '', state: '' };
  let shown = null;

  on('view', (view) => {
    const isShown = view.page === 'audits';
    shown = isShown ? { run: view.run || null, theme: view.theme } : null;
    if (isShown) { look(); } else { audits.forget(); }
    // Every step of a view comes by here; plots need a resize only where another page is shown.
    const page = view.page || 'explain';
    if (document.body.dataset.page === page) { return; }
    document.body.dataset.page = page;
    document.querySelectorAll('[data-page-tab]').forEach((tab) => {
      tab.setAttribute('aria-current', tab.dataset.pageTab === document.body.dataset.page ? 'page' : 'false');
    });
    window.dispatchEvent(new Event('resize'));
  });

  function look(changes) {
    Object.assign(listing, changes);
    if (shown) { audits.want({ ...shown, ...listing }); }
  }

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
    emit('run', facts.run);
    renew('audit-list', ...facts.list.map(built));
    markPressed();
    say('audit-count', facts.count);
    renew('audit', ...facts.audit.map(built));
    renew('audit-maps', ...facts.maps.map(built));
    renew('audit-curve-file', ...facts.curve_file.map(built));
    renew('audit-details', ...facts.details.map(built));
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

  on('rebuilt', () => audits.again());

  document.addEventListener('click', (event) => {
    const tab = event.target.closest?.('[data-page-tab]');
    const run = event.target.closest?.('[data-run]');
    const stop = event.target.closest?.('[data-cancel]');
    const resume = event.target.closest?.('[data-resume]');
    if (tab) { pick({ page: tab.dataset.pageTab }); }
    const sorter = event.target.closest?.('[data-order]');
    const clone = event.target.closest?.('[data-clone]');
    const part = event.target.closest?.('[data-goto]');
    if (part) { document.getElementById(part.dataset.goto).scrollIntoView({ block: 'start' }); }
    if (run) { pick({ run: run.dataset.run }); }
    if (sorter) { look({ order: sorter.dataset.order }); }
    if (clone) { emit('clone', clone.dataset.clone); }
    if (stop) { press(stopping, stop.dataset.cancel, 'Stopping …'); }
    if (resume) { press(resuming, resume.dataset.resume, 'Starting …'); }
  });

  on('find', (text) => {
    const find = byId('audit-find');
    // The field is Dash's own: it must hear of the text as if it had been typed.
    Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'value').set.call(find, text);
    find.dispatchEvent(new Event('input', { bubbles: true }));
  });

  let waiting = null;
  document.addEventListener('input', (event) => {
    if (event.target.id !== 'audit-find') { return; }
    window.clearTimeout(waiting);
    waiting = window.setTimeout(() => look({ find: event.target.value }), 150);
  });
  document.addEventListener('change', (event) => { if (event.target.id === 'audit-state') { look({ state: event.target.value }); } });
})();
