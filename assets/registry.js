/* The models and data page: what the store holds is asked while the page is shown; forms send texts and ids, never paths. */
(function () {
  'use strict';

  const { built, byId, emit, entry, fill, filled, make, on, panel, pick, renew, say } = window.faultline;
  const TITLES = { model: 'Add a model from the import folder', data: 'Add a data set from the import folder' };
  /* What became of the last order of each form: it stands beside the form's button, also when the form is drawn anew. */
  const answers = { model: { text: '', isWrong: false, mistakes: {} }, data: { text: '', isWrong: false, mistakes: {} } };
  let forms = '';

  on('view', (view) => {
    if (view.page === 'models') { registry.want({ report: view.report || null }); } else { registry.forget(); }
  });

  function form(kind, fields, first) {
    const add = make('button', { type: 'submit', class: 'plain-button', 'data-term': 'import-add' }, 'Add');
    const said = make('p', { id: `registry-answer-${kind}`, role: 'status' });
    const drawn = (some) => make('div', { class: 'form-fields' }, ...some.map((field) => entry(field, `registry-${kind}-${field.name}`)));
    const more = make('details', { class: 'twin seldom' }, make('summary', { 'data-term': 'import-more' }, 'More'), drawn(fields.slice(first)));
    return make('details', { class: 'twin', 'data-form': kind }, make('summary', { 'data-term': `import-${kind}` }, TITLES[kind]),
      make('form', { class: 'registry-form', 'data-kind': kind }, drawn(fields.slice(0, first)), more, make('div', { class: 'form-end' }, add, said)));
  }

  const formOf = (kind) => document.querySelector(`#registry-forms [data-form=${kind}]`);
  const fieldsOf = (kind) => [...(formOf(kind)?.querySelectorAll('[data-name]') || [])];

  function clear(kind) {
    fieldsOf(kind).forEach((control) => {
      control.removeAttribute('aria-invalid');
      control.parentElement.classList.remove('wrong');
      const note = control.parentElement.querySelector('.note');
      note.textContent = note.dataset.help;
    });
  }

  /* What is wrong stands at its field, which is unfolded where it is among those that seldom are needed. */
  function sayAnswer(kind) {
    const { text, isWrong, mistakes } = answers[kind];
    say(`registry-answer-${kind}`, text);
    const node = byId(`registry-answer-${kind}`);
    if (node) { node.className = isWrong ? 'warning' : ''; }
    clear(kind);
    fieldsOf(kind).filter((control) => mistakes[control.dataset.name]).forEach((control) => {
      control.setAttribute('aria-invalid', 'true');
      control.parentElement.classList.add('wrong');
      control.parentElement.querySelector('.note').textContent = mistakes[control.dataset.name];
      const more = control.closest('details.seldom');
      if (more) { more.open = true; }
    });
  }

  function answer(kind, text, isWrong = false, mistakes = {}) {
    answers[kind] = { text, isWrong, mistakes };
    sayAnswer(kind);
    if (Object.keys(mistakes).length) { formOf(kind)?.querySelector('[aria-invalid]')?.focus(); }
  }

  /* Forms are drawn anew only when what they offer has changed; what was filled in stays, and what was unfolded. */
  function drawForms(facts) {
    const now = JSON.stringify(facts.forms);
    if (now === forms) { return; }
    forms = now;
    const kinds = Object.keys(answers);
    const before = Object.fromEntries(kinds.map((kind) => [kind, { values: filled(formOf(kind) || document.createElement('p')),
      open: Boolean(formOf(kind)?.open), more: Boolean(formOf(kind)?.querySelector('.seldom')?.open) }]));
    const focused = document.activeElement?.id;
    fill('registry-forms', ...['model', 'data'].filter((kind) => facts.forms[kind].length).map((kind) => form(kind, facts.forms[kind], facts.forms.first)),
      facts.forms.note ? make('p', { class: 'note' }, facts.forms.note) : '');
    kinds.filter(formOf).forEach((kind) => {
      formOf(kind).open = before[kind].open;
      formOf(kind).querySelector('.seldom').open = before[kind].more;
      fieldsOf(kind).forEach((control) => {
        const value = before[kind].values[control.dataset.name];
        const isOffered = control.tagName !== 'SELECT' || [...control.options].some((option) => option.value === value);
        if (value && isOffered) { control.value = value; }
      });
      sayAnswer(kind);
    });
    if (focused && document.activeElement === document.body) { byId(focused)?.focus({ preventScroll: true }); }
  }

  function draw(facts) {
    renew('registry-models', ...facts.models.map(built));
    renew('registry-report', ...facts.report.map(built));
    renew('registry-data', ...facts.data.map(built));
    renew('registry-files', ...facts.files.map(built));
    document.querySelectorAll('[data-report]').forEach((button) => {
      button.setAttribute('aria-pressed', String(button.dataset.report === facts.report_of));
    });
    drawForms(facts);
    offerDrop(facts.drop);
  }

  /* Looked after again while it works; what has failed before is forgiven with the first look only. */
  function ordered(told, wanted) {
    wanted.isFirst = false;
    if (told.kind in answers) {
      answer(told.kind, told.text, told.state === 'failed', told.mistakes);
    } else {
      say('registry-said', told.text);
      byId('registry-said').className = told.state === 'failed' ? 'warning' : '';
    }
    if (told.state !== 'ready') { return; }
    if (told.report_of) { pick({ report: told.report_of }); }
    registry.again();
  }

  /* ---- files that are sent into the import folder ---- */
  let drop = null;

  function offerDrop(next) {
    drop = next;
    const node = byId('registry-drop');
    node.hidden = !next;
    if (!next || node.firstChild) { return; }
    const input = make('input', { type: 'file', id: 'upload-files', multiple: '', class: 'sr-only', tabindex: '-1', accept: next.endings.join(','), 'aria-label': 'Files to send' });
    const button = make('button', { type: 'button', class: 'plain-button', 'data-term': 'upload' }, 'Choose files …');
    button.addEventListener('click', () => input.click());
    input.addEventListener('change', () => { sendAll([...input.files]); input.value = ''; });
    node.append(make('span', {}, 'Drop weights, npz files, tables or class lists here to send them into the import folder, or '), button, input,
      make('div', { role: 'status' }, make('ul', { id: 'upload-list' })));
  }

  /* What the server would refuse is said at once: a refused file would travel all the way first. */
  function obstacle(file) {
    const name = file.name.replace(/[^A-Za-z0-9._-]+/g, '-').replace(/^-+|-+$/g, '');
    if (!drop.endings.some((ending) => name.toLowerCase().endsWith(ending))) { return `cannot be added; what can are files ending in ${drop.endings.join(', ')}`; }
    if (drop.there.includes(name)) { return 'lies in the import folder already; give it another name'; }
    return file.size ? '' : 'is empty';
  }

  function sendAll(files) {
    files.forEach((file) => {
      const line = byId('upload-list').appendChild(make('li', {}, `${file.name}: waiting …`));
      const why = obstacle(file);
      if (why) { ended(line, `${file.name} ${why}.`, true); } else { queue.push({ file, line }); }
    });
    next();
  }

  const queue = [];
  let sending = false;

  function ended(line, text, isWrong) {
    line.textContent = text;
    line.className = isWrong ? 'warning' : '';
  }

  function next() {
    if (sending || !queue.length) { return; }
    const { file, line } = queue.shift();
    const request = new XMLHttpRequest();
    sending = true;
    request.open('POST', `${drop.path}?name=${encodeURIComponent(file.name)}`);
    request.setRequestHeader('Content-Type', 'application/octet-stream');
    request.upload.onprogress = ({ loaded, total }) => { line.textContent = `${file.name}: ${Math.floor(100 * loaded / total)} %`; };
    request.onloadend = () => {
      sending = false;
      let told = {};
      try { told = JSON.parse(request.responseText); } catch (error) { told = { error: request.responseText.trim().slice(0, 200) }; }
      if (request.status === 200) { ended(line, `${told.name} lies in the import folder now.`); } else { ended(line, `${file.name} was not taken: ${told.error || 'the connection was lost.'}`, true); }
      registry.again();
      next();
    };
    request.send(file);
  }

  const dropped = (event) => event.target.closest?.('#registry-drop');
  ['dragenter', 'dragover', 'dragleave', 'drop'].forEach((name) => document.addEventListener(name, (event) => {
    if (document.body.dataset.page !== 'models' || !drop || !event.dataTransfer?.types.includes('Files')) { return; }
    // A file that is dropped beside the field must not replace the page.
    event.preventDefault();
    byId('registry-drop').classList.toggle('is-over', Boolean(dropped(event)) && (name === 'dragenter' || name === 'dragover'));
    if (name === 'drop' && dropped(event)) { sendAll([...event.dataTransfer.files]); }
  }));

  const registry = panel('registry', { draw });
  const order = panel('registry-order', { draw: ordered });

  async function copy(button) {
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
      button.textContent = 'Copied';
    } catch (error) {
      button.textContent = button.dataset.copy;
    }
    window.setTimeout(() => { button.textContent = 'Copy'; }, 2500);
  }

  document.addEventListener('click', (event) => {
    const button = event.target.closest?.('[data-report], [data-archive], [data-back], [data-copy], [data-plan], [data-runs-of]');
    if (!button) { return; }
    const { report, archive, back, shelf, plan, planData, runsOf } = button.dataset;
    if (report !== undefined) { pick({ report }); }
    if (archive !== undefined) { order.want({ shelf, name: archive, archived: true }); }
    if (back !== undefined) { order.want({ shelf, name: back, archived: false }); }
    if (button.dataset.copy !== undefined) { copy(button); }
    if (plan !== undefined) { pick({ page: 'audits' }); emit('plan', { model: plan, data: planData || null }); }
    if (runsOf !== undefined) { pick({ page: 'audits' }); emit('find', runsOf); }
  });

  document.addEventListener('input', (event) => {
    const kind = event.target.closest?.('.registry-form')?.dataset.kind;
    if (kind && answers[kind].isWrong) { answer(kind, ''); }
  });

  document.addEventListener('submit', (event) => {
    const kind = event.target.closest?.('.registry-form')?.dataset.kind;
    if (!kind) { return; }
    event.preventDefault();
    answer(kind, 'Being added …');
    order.want({ kind, values: filled(event.target), isFirst: true });
  });
})();
