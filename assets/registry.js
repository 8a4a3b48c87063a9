/* The models and data page: what the store holds is asked while the page is shown; forms send texts and ids, never paths. */
(function () {
  'use strict';

  const { built, byId, entry, fill, filled, make, on, panel, pick, say } = window.faultline;
  const TITLES = { model: 'Add a model from the import folder', data: 'Add a data set from the import folder' };
  /* What became of the last order of each form: it stands beside the form's button, also when the form is drawn anew. */
  const answers = { model: { text: '', isWrong: false }, data: { text: '', isWrong: false } };
  let forms = '';

  on('view', (view) => {
    if (view.page === 'models') { registry.want({ report: view.report || null }); } else { registry.forget(); }
  });

  function form(kind, fields) {
    const add = make('button', { type: 'submit', class: 'plain-button' }, 'Add');
    const said = make('p', { id: `registry-answer-${kind}`, role: 'status' });
    return make('details', { class: 'twin', 'data-form': kind }, make('summary', {}, TITLES[kind]),
      make('form', { class: 'registry-form', 'data-kind': kind }, make('div', { class: 'form-fields' },
        ...fields.map((field) => entry(field, `registry-${kind}-${field.name}`))), make('div', { class: 'form-end' }, add, said)));
  }

  const isOpen = (kind) => Boolean(document.querySelector(`#registry-forms [data-form=${kind}]`)?.open);

  function sayAnswer(kind) {
    const { text, isWrong } = answers[kind];
    say(`registry-answer-${kind}`, text);
    const node = byId(`registry-answer-${kind}`);
    if (node) { node.className = isWrong ? 'warning' : ''; }
  }

  function answer(kind, text, isWrong) {
    answers[kind] = { text, isWrong };
    sayAnswer(kind);
  }

  /* Forms are drawn anew only when what they offer has changed: what was typed stays. */
  function drawForms(facts) {
    const now = JSON.stringify(facts.forms);
    if (now === forms) { return; }
    forms = now;
    const open = Object.keys(answers).filter(isOpen);
    fill('registry-forms', ...['model', 'data'].filter((kind) => facts.forms[kind].length).map((kind) => form(kind, facts.forms[kind])),
      facts.forms.note ? make('p', { class: 'note' }, facts.forms.note) : '');
    open.forEach((kind) => { document.querySelector(`#registry-forms [data-form=${kind}]`)?.setAttribute('open', ''); });
    Object.keys(answers).forEach(sayAnswer);
  }

  function draw(facts) {
    fill('registry-models', ...facts.models.map(built));
    fill('registry-report', ...facts.report.map(built));
    fill('registry-data', ...facts.data.map(built));
    document.querySelectorAll('[data-report]').forEach((button) => {
      button.setAttribute('aria-pressed', String(button.dataset.report === facts.report_of));
    });
    drawForms(facts);
  }

  /* Looked after again while it works; what has failed before is forgiven with the first look only. */
  function ordered(told, wanted) {
    wanted.isFirst = false;
    if (told.kind in answers) {
      answer(told.kind, told.text, told.state === 'failed');
    } else {
      say('registry-said', told.text);
      byId('registry-said').className = told.state === 'failed' ? 'warning' : '';
    }
    if (told.state !== 'ready') { return; }
    if (told.report_of) { pick({ report: told.report_of }); }
    registry.again();
  }

  const registry = panel('registry', { draw });
  const order = panel('registry-order', { draw: ordered });

  document.addEventListener('click', (event) => {
    const button = event.target.closest?.('[data-report], [data-archive], [data-back]');
    if (!button) { return; }
    const { report, archive, back, shelf } = button.dataset;
    if (report !== undefined) { pick({ report }); }
    if (archive !== undefined) { order.want({ shelf, name: archive, archived: true }); }
    if (back !== undefined) { order.want({ shelf, name: back, archived: false }); }
  });

  document.addEventListener('submit', (event) => {
    const kind = event.target.closest?.('.registry-form')?.dataset.kind;
    if (!kind) { return; }
    event.preventDefault();
    answer(kind, 'Being added …', false);
    order.want({ kind, values: filled(event.target), isFirst: true });
  });
})();
