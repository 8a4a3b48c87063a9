/* The form that starts an audit. What it offers comes from the server as fields; what was filled in goes back as texts. */
(function () {
  'use strict';

  const { byId, entry, filled, make, menu, panel, pick, read } = window.faultline;
  let form = null;

  function drawn(field, prefix = '') {
    const node = entry(field, `audit-field-${prefix}${field.name}`);
    node.dataset.field = `${prefix}${field.name}`;
    return node;
  }

  let added = 0;

  function row(kind, title, fields, attack) {
    const own = `${kind}-${added += 1}-`;
    const remove = make('button', { type: 'button', class: 'plain-button' }, 'Remove');
    const node = make('fieldset', { class: 'form-row', 'data-row': kind, 'data-attack': attack },
      make('legend', {}, title), ...fields.map((field) => drawn(field, own)), remove, make('p', { class: 'wrong' }));
    remove.addEventListener('click', () => { node.remove(); changed(); });
    return node;
  }

  function adder(kind) {
    const rows = make('div', { class: 'form-rows', 'data-rows': kind });
    const add = (node) => { rows.append(node); changed(); };
    if (kind === 'thresholds') {
      const button = make('button', { type: 'button', class: 'plain-button' }, 'Add a threshold');
      button.addEventListener('click', () => add(row(kind, 'Threshold', form.threshold)));
      return [rows, button];
    }
    const options = form.attacks.map(({ name, title }) => [name, `${title} (${name})`]);
    const picked = menu({ options, value: options[0][0] });
    picked.setAttribute('aria-label', 'Attack to add');
    const button = make('button', { type: 'button', class: 'plain-button' }, 'Add this attack');
    button.addEventListener('click', () => {
      const { name, title, fields } = form.attacks.find((one) => one.name === picked.value);
      add(row(kind, `${title} (${name})`, fields, name));
    });
    return [rows, make('div', { class: 'form-adder' }, picked, button)];
  }

  function draw(facts) {
    form = facts;
    const groups = facts.groups.map((group) => make('fieldset', { class: 'form-group' },
      make('legend', {}, group.title), group.note ? make('p', { class: 'note' }, group.note) : null,
      make('div', { class: 'form-fields' }, ...group.fields.map((field) => drawn(field))), ...(group.rows ? adder(group.rows) : [])));
    const ask = make('button', { type: 'button', class: 'plain-button', id: 'audit-cost' }, 'What will it cost?');
    const begin = make('button', { type: 'submit', class: 'plain-button', id: 'audit-begin', disabled: '' }, 'Start');
    const said = make('p', { id: 'audit-said', role: 'status' });
    ask.addEventListener('click', () => { clear(); cost.want({ values: values() }); });
    byId('audit-form').replaceChildren(...groups, make('div', { class: 'form-end' }, ask, begin, said));
  }

  const rowsOf = (kind) => [...document.querySelectorAll(`#audit-form [data-row=${kind}]`)];

  function values() {
    const plain = [...document.querySelectorAll('#audit-form .form-fields [data-name]')].map((one) => [one.dataset.name, read(one)]);
    return {
      ...Object.fromEntries(plain),
      attacks: rowsOf('attacks').map((node) => ({ name: node.dataset.attack, settings: filled(node) })),
      thresholds: rowsOf('thresholds').map(filled),
    };
  }

  function clear() {
    document.querySelectorAll('#audit-form [aria-invalid]').forEach((node) => node.removeAttribute('aria-invalid'));
    document.querySelectorAll('#audit-form .form-field.wrong').forEach((node) => {
      node.classList.remove('wrong');
      const note = node.querySelector('.note');
      note.textContent = note.dataset.help;
    });
    document.querySelectorAll('#audit-form p.wrong').forEach((node) => { node.textContent = ''; });
    say('');
  }

  function say(text, isWrong) {
    const node = byId('audit-said');
    node.textContent = text;
    node.className = isWrong ? 'warning' : '';
  }

  /* A cost holds for the values it was told of: any change asks for it anew before the start. */
  function changed() {
    byId('audit-begin').disabled = true;
    cost.forget();
    clear();
  }

  /* `count`, or the place in a list: `attacks-1`, `thresholds-0-at_least`. */
  function fieldNode(name) {
    const [, kind, place, rest] = name.match(/^(attacks|thresholds)-(\d+)-?(.*)$/) || [];
    const owner = kind ? rowsOf(kind)[Number(place)] : byId('audit-form').querySelector(`.form-fields [data-field="${CSS.escape(name)}"]`);
    return { owner, node: kind && rest ? owner?.querySelector(`[data-name="${CSS.escape(rest)}"]`)?.parentElement : owner };
  }

  function wrong({ field, text }) {
    const { owner, node } = field ? fieldNode(field) : {};
    if (!node) { say(text, true); return; }
    if (node.matches('.form-field')) {
      node.classList.add('wrong');
      node.querySelector('.note').textContent = text;
      const control = node.querySelector('[data-name]');
      control.setAttribute('aria-invalid', 'true');
      control.focus();
    } else {
      owner.querySelector('p.wrong').textContent = text;
    }
    say('Something above is not right yet.', true);
  }

  function costed(told) {
    if (told.state === 'working') { say(told.text); return; }
    cost.forget();
    if (told.state === 'wrong') { wrong(told); return; }
    say(told.text, told.state === 'failed');
    byId('audit-begin').disabled = false;
  }

  function started(told) {
    if (told.state === 'wrong') { wrong(told); return; }
    byId('audit-form').parentElement.open = false;
    changed();
    pick({ run: told.run });
  }

  const offer = panel('audit-form', { draw });
  const cost = panel('audit-cost', { draw: costed });
  const begin = panel('audit-start', { draw: started });

  document.addEventListener('toggle', (event) => {
    if (event.target.open && event.target.querySelector?.('#audit-form') && !form) { offer.want({ open: true }); }
  }, true);
  document.addEventListener('input', (event) => { if (event.target.closest?.('#audit-form')) { changed(); } });
  document.addEventListener('submit', (event) => {
    if (event.target.id !== 'audit-form') { return; }
    event.preventDefault();
    if (!byId('audit-begin').disabled) {
      byId('audit-begin').disabled = true;
      begin.want({ values: values() });
    }
  });
})();
