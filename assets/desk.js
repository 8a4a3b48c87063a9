/* The models and data page: what the store holds is asked while the page is shown; forms send texts and ids, never paths. */
(function () {
  'use strict';

  const { asking, built, byId, entry, fill, filled, make, onAsk, say } = window.faultline;
  const AGAIN = 1000;
  const TITLES = { model: 'Add a model from the inbox', data: 'Add a data set from the inbox' };
  /* What became of the last order of each form: it stands beside the form's button, also when the form is drawn anew. */
  const answers = { model: { text: '', isWrong: false }, data: { text: '', isWrong: false } };
  const ask = asking('desk-ask');
  const order = asking('desk-order');
  let forms = '';
  const set = (id, data) => window.dash_clientside.set_props(id, { data: { ...data, t: Date.now() } });

  onAsk('page', (view) => {
    const isShown = view.page === 'models';
    ask.want(isShown ? { intake: view.intake || null } : null);
    if (isShown) { ask.after(0); }
  });

  function form(kind, fields) {
    const add = make('button', { type: 'submit', class: 'plain-button' }, 'Add');
    const said = make('p', { id: `desk-answer-${kind}`, role: 'status' });
    return make('details', { class: 'twin', 'data-form': kind }, make('summary', {}, TITLES[kind]),
      make('form', { class: 'desk-form', 'data-kind': kind }, make('div', { class: 'form-fields' },
        ...fields.map((field) => entry(field, `desk-${kind}-${field.name}`))), make('div', { class: 'form-end' }, add, said)));
  }

  const isOpen = (kind) => Boolean(document.querySelector(`#desk-forms [data-form=${kind}]`)?.open);

  function sayAnswer(kind) {
    const { text, isWrong } = answers[kind];
    say(`desk-answer-${kind}`, text);
    const node = byId(`desk-answer-${kind}`);
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
    fill('desk-forms', ...['model', 'data'].filter((kind) => facts.forms[kind].length).map((kind) => form(kind, facts.forms[kind])),
      facts.forms.note ? make('p', { class: 'note' }, facts.forms.note) : '');
    open.forEach((kind) => { document.querySelector(`#desk-forms [data-form=${kind}]`)?.setAttribute('open', ''); });
    Object.keys(answers).forEach(sayAnswer);
  }

  function draw(facts) {
    if (!facts || !ask.wanted || facts.intake !== ask.wanted.intake) { return; }
    fill('desk-models', ...facts.models.map(built));
    fill('desk-report', ...facts.report.map(built));
    fill('desk-data', ...facts.data.map(built));
    document.querySelectorAll('[data-intake]').forEach((button) => {
      button.setAttribute('aria-pressed', String(button.dataset.intake === facts.intake));
    });
    drawForms(facts);
    if (facts.again) { ask.after(AGAIN); }
  }

  function ordered(told) {
    if (!told) { return; }
    if (told.kind in answers) {
      answer(told.kind, told.text, told.state === 'failed');
    } else {
      say('desk-said', told.text);
      byId('desk-said').className = told.state === 'failed' ? 'warning' : '';
    }
    if (told.state === 'working') { order.want({ ...order.wanted, isFirst: false }); order.after(AGAIN); return; }
    order.want(null);
    if (told.state === 'failed') { return; }
    if (told.intake) { set('pick', { intake: told.intake }); }
    ask.after(0);
  }

  document.addEventListener('click', (event) => {
    const button = event.target.closest?.('[data-intake], [data-retire], [data-back]');
    if (!button) { return; }
    const { intake, retire, back, shelf } = button.dataset;
    if (intake !== undefined) { set('pick', { intake }); }
    if (retire !== undefined) { set('desk-order', { shelf, name: retire, retired: true }); }
    if (back !== undefined) { set('desk-order', { shelf, name: back, retired: false }); }
  });

  document.addEventListener('submit', (event) => {
    const kind = event.target.closest?.('.desk-form')?.dataset.kind;
    if (!kind) { return; }
    event.preventDefault();
    answer(kind, 'Being added …', false);
    order.want({ kind, values: filled(event.target), isFirst: true });
    order.after(0);
  });

  window.dash_clientside = window.dash_clientside || {};
  window.dash_clientside.desk = { draw, ordered };
})();
