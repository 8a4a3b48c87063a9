/* The form that plans an audit. What it offers comes from the server as fields; what was filled in goes back as texts. */
(function () {
  'use strict';

  const { byId, entry, filled, make, menu, on, panel, pick, read, say: tell } = window.faultline;
  const COST = 'What will it cost?';
  const IDLE = `Start waits until the cost is known: press "${COST}".`;
  const ADD = { attacks: 'Add this attack', precomputed: 'Add a precomputed set', thresholds: 'Add a threshold' };
  let form = null;
  /* Fields that somebody has filled in: another model or data set then leaves them as they are. */
  const touched = new Set();
  let from = {};

  /* Another model or data set that one comes from is taken over as long as nobody has filled in anything. */
  on('view', (view) => {
    const next = { model: view.model || null, data: view.data || null };
    const isOther = next.model !== from.model || next.data !== from.data;
    from = next;
    if (form && isOther && !touched.size && !document.querySelector('#audit-form [data-row]')) {
      if (byId('audit-new').open) { offer.want({ ...from, clone: null }); } else { form = null; offer.forget(); }
    }
  });

  function drawn(field, prefix = '') {
    const node = entry(field, `audit-field-${prefix}${field.name}`);
    node.dataset.field = `${prefix}${field.name}`;
    return node;
  }

  let added = 0;

  function row(kind, title, fields, attack) {
    const own = `${kind}-${added += 1}-`;
    const remove = make('button', { type: 'button', class: 'plain-button', 'data-term': 'audit-remove' }, 'Remove');
    const node = make('fieldset', { class: 'form-row', 'data-row': kind, 'data-attack': attack },
      make('legend', {}, title, ' ', remove), ...fields.map((field) => drawn(field, own)),
      kind === 'thresholds' ? make('p', { class: 'need', role: 'status' }) : null, make('p', { class: 'wrong' }));
    remove.addEventListener('click', () => {
      const rows = node.parentElement;
      node.remove();
      changed();
      rows.nextElementSibling?.querySelector('button')?.focus();
    });
    return node;
  }

  /* Fields with other values than they begin with. */
  const withValues = (fields, values) => fields.map((field) => (field.name in values ? { ...field, value: values[field.name] } : field));

  function made(kind, values) {
    if (kind === 'attacks') {
      const { name, title, fields } = form.attacks.find((one) => one.name === values.name);
      return row(kind, `${title} (${name})`, withValues(fields, values.settings || {}), name);
    }
    if (kind === 'thresholds') { return row(kind, 'Threshold', withValues(form.threshold, values)); }
    const options = form.subjects[byId('audit-field-model').value]?.data || [];
    const own = form.precomputed.map((field) => (field.name === 'data' ? { ...field, options, value: options[0]?.[0] || '' } : field));
    return row(kind, 'Precomputed set', withValues(own, values));
  }

  function add(kind, values) {
    const node = made(kind, values);
    document.querySelector(`#audit-form [data-rows=${kind}]`).append(node);
    return node;
  }

  function adder(kind) {
    const rows = make('div', { class: 'form-rows', 'data-rows': kind });
    const button = make('button', { type: 'button', class: 'plain-button', 'data-term': 'audit-add' }, ADD[kind]);
    const picked = kind === 'attacks' ? menu({ options: form.attacks.map(({ name, title }) => [name, `${title} (${name})`]), value: form.attacks[0].name }) : null;
    if (picked) { picked.setAttribute('aria-label', 'Attack to add'); }
    button.addEventListener('click', () => {
      const node = add(kind, picked ? { name: picked.value } : {});
      changed();
      node.querySelector('[data-name]')?.focus();
    });
    return [rows, make('div', { class: 'form-adder' }, picked, button), make('p', { class: 'wrong', 'data-wrong': kind })];
  }

  function group({ title, note, fields, rows }) {
    return make('fieldset', { class: 'form-group' }, make('legend', {}, title), note ? make('p', { class: 'note' }, note) : null,
      make('div', { class: 'form-fields' }, ...fields.map((field) => drawn(field))), ...(rows ? adder(rows) : []));
  }

  function draw(facts) {
    form = facts;
    touched.clear();
    const ask = make('button', { type: 'button', class: 'plain-button', id: 'audit-cost', 'data-term': 'audit-cost' }, COST);
    const begin = make('button', { type: 'submit', class: 'plain-button', id: 'audit-begin', disabled: '', 'aria-describedby': 'audit-idle' }, 'Start');
    const said = make('p', { id: 'audit-said', role: 'status' });
    const idle = make('p', { id: 'audit-idle', class: 'note' }, IDLE);
    ask.addEventListener('click', () => { clear(); cost.want({ values: values() }); });
    byId('audit-form').replaceChildren(facts.note ? make('p', { class: 'note', id: 'audit-from' }, facts.note) : '', ...facts.groups.map(group),
      make('div', { class: 'form-end' }, ask, make('span', { 'data-term': 'audit-begin' }, begin), idle, said));
    Object.entries(facts.rows).forEach(([kind, rows]) => rows.forEach((row_) => add(kind, row_)));
    if (facts.asked && facts.asked.clone) {
      // Another model or data set must not undo what was taken over.
      document.querySelectorAll('#audit-form .form-fields [data-name]').forEach((node) => touched.add(node.dataset.name));
    }
    follow('tier');
    if (byId('audit-new').open) { byId('audit-form').querySelector('[data-name=name]').focus(); }
    measure();
  }

  const rowsOf = (kind) => [...document.querySelectorAll(`#audit-form [data-row=${kind}]`)];

  function values() {
    const plain = [...document.querySelectorAll('#audit-form .form-fields [data-name]')].map((one) => [one.dataset.name, read(one)]);
    return {
      ...Object.fromEntries(plain),
      attacks: rowsOf('attacks').map((node) => ({ name: node.dataset.attack, settings: filled(node) })),
      precomputed: rowsOf('precomputed').map(filled),
      thresholds: rowsOf('thresholds').map(filled),
    };
  }

  /* ---- what follows from the chosen model and data ---- */
  const fieldNamed = (name) => byId(`audit-field-${name}`);

  function offerIn(select, options) {
    const kept = options.some(([value]) => value === select.value) ? select.value : (options[0] || [''])[0];
    select.replaceChildren(...options.map(([value, title]) => make('option', { value }, title)));
    select.value = kept;
  }

  function help(name, text) {
    const note = byId(`audit-field-${name}-note`);
    note.dataset.help = text;
    note.textContent = text;
  }

  function follow(name) {
    if (name === 'model') {
      const subject = form.subjects[fieldNamed('model').value];
      offerIn(fieldNamed('data'), subject.data);
      offerIn(fieldNamed('baseline'), subject.baselines);
      rowsOf('precomputed').forEach((node) => offerIn(node.querySelector('[data-name=data]'), subject.data));
      help('data', subject.misfits || (subject.data.length ? 'The images that are attacked.' : 'No data set of this store fits this model.'));
    }
    // Without a tier there is no epsilon of one.
    fieldNamed('epsilon').disabled = fieldNamed('tier').value === 'custom';
    if (name !== 'model' && name !== 'data') { return; }
    const set = form.sets[fieldNamed('data').value];
    if (!set) { return; }
    if (!touched.has('epsilon')) { fieldNamed('epsilon').value = set.epsilon; }
    const count = fieldNamed('count');
    // Never more than there are, even where somebody chose the number for another set.
    if (!touched.has('count') || Number(count.value) > set.count) { count.value = Math.min(1000, set.count); }
  }

  /* ---- what is wrong, and what it costs ---- */
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
    tell('audit-said', text);
    byId('audit-said').className = isWrong ? 'warning' : '';
  }

  function allow(isAllowed) {
    byId('audit-begin').disabled = !isAllowed;
    tell('audit-idle', isAllowed ? '' : IDLE);
  }

  /* How many right answers each threshold needs, as long as it says so in numbers. */
  const measure = () => need.want(rowsOf('thresholds').length ? { values: values() } : null);

  /* A cost holds for the values it was told of: any change asks for it anew before the start. */
  function changed() {
    allow(false);
    cost.forget();
    clear();
    measure();
  }

  /* `count`, or the place in a list: `attacks-1`, `thresholds-0-at_least`. */
  function fieldNode(name) {
    const [, kind, place, rest] = name.match(/^(attacks|precomputed|thresholds)-(\d+)-?(.*)$/) || [];
    if (!kind) { return { node: byId('audit-form').querySelector(`.form-fields [data-field="${CSS.escape(name)}"]`), owner: null }; }
    const owner = rowsOf(kind)[Number(place)];
    return { owner, node: rest ? owner?.querySelector(`[data-name="${CSS.escape(rest)}"]`)?.parentElement : null };
  }

  /* Say a mistake at its field, and return the control; null for one of a whole row or of the whole form. */
  function mark({ field, text }) {
    const { owner, node } = fieldNode(field);
    if (!node) {
      const place = owner?.querySelector('p.wrong') || document.querySelector(`#audit-form [data-wrong="${CSS.escape(field || 'none')}"]`);
      if (place) { place.textContent = text; return owner?.querySelector('[data-name]') || null; }
      say(text, true);
      return null;
    }
    node.classList.add('wrong');
    node.querySelector('.note').textContent = text;
    const control = node.querySelector('[data-name]');
    control.setAttribute('aria-invalid', 'true');
    return control;
  }

  function wrong({ mistakes, text }) {
    clear();
    say(text, true);
    const controls = mistakes.map(mark).filter(Boolean);
    const order = [...document.querySelectorAll('#audit-form [data-name]')];
    controls.sort((a, b) => order.indexOf(a) - order.indexOf(b))[0]?.focus();
  }

  function costed(told) {
    if (told.state === 'working') { say(told.text); return; }
    cost.forget();
    if (told.state === 'wrong') { wrong(told); return; }
    say(told.text, told.state === 'failed');
    allow(told.state !== 'failed');
  }

  function started(told) {
    if (told.state === 'wrong') { wrong(told); return; }
    byId('audit-new').open = false;
    changed();
    pick({ run: told.run });
  }

  function needs({ lines }) {
    rowsOf('thresholds').forEach((node, k) => {
      const place = node.querySelector('.need');
      place.textContent = lines[k] || '';
      place.classList.toggle('short', / cannot pass|No number/.test(lines[k] || ''));
    });
  }

  const offer = panel('audit-form', { draw });
  const cost = panel('audit-cost', { draw: costed });
  const need = panel('audit-need', { draw: needs, wait: 250 });
  const begin = panel('audit-start', { draw: started });

  on('clone', (run) => {
    byId('audit-new').open = true;
    offer.want({ clone: run, t: Date.now() });
    byId('audit-new').scrollIntoView({ block: 'start' });
  });

  on('plan', ({ model, data }) => {
    byId('audit-new').open = true;
    offer.want({ model, data, clone: null, t: Date.now() });
  });

  document.addEventListener('toggle', (event) => {
    if (event.target.id === 'audit-new' && event.target.open && !form && !offer.wanted) { offer.want({ ...from, clone: null }); }
  }, true);
  document.addEventListener('input', (event) => {
    if (!event.target.closest?.('#audit-form')) { return; }
    const { name } = event.target.dataset;
    if (event.target.closest('.form-fields')) { touched.add(name); follow(name); }
    changed();
  });
  document.addEventListener('submit', (event) => {
    if (event.target.id !== 'audit-form') { return; }
    event.preventDefault();
    if (!byId('audit-begin').disabled) {
      byId('audit-begin').disabled = true;
      begin.want({ values: values() });
    }
  });
})();
