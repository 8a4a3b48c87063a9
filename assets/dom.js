/* Making elements from plain values. Text is only ever set as text. */
(function () {
  'use strict';

  const byId = (id) => document.getElementById(id);

  function make(tag, settings, ...children) {
    const node = document.createElement(tag);
    Object.entries(settings || {}).forEach(([name, value]) => {
      if (value === null || value === undefined || value === false) { return; }
      if (name === 'style' && typeof value === 'object') { Object.assign(node.style, value); return; }
      node.setAttribute(name, value);
    });
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  /* What dashboard/markup.py wrote: a text, or a tag with its attributes and children. */
  function built(piece) {
    return typeof piece === 'string' ? piece : make(piece.tag, piece.attributes, ...piece.children.map(built));
  }

  /* A share in per cent, as `percent` of dashboard/wording.py writes it. */
  function percent(share) {
    const size = Math.abs(share);
    const digits = () => (size >= 0.0995 ? (100 * size).toFixed(0) : String(Number(size >= 0.001 ? (100 * size).toPrecision(2) : (100 * size).toFixed(2))));
    const text = size > 0 && size < 0.0001 ? '<0.01' : size >= 0.995 && size < 1 ? '>99' : digits();
    return `${share < 0 ? '−' : ''}${text} %`;
  }

  function fill(id, ...children) {
    const node = byId(id);
    if (node) { node.replaceChildren(...children); }
  }

  /* ---- what is drawn again keeps what did not change: the keyboard's place, a selection, what was unfolded ---- */
  const KEPT = ['open', 'value', 'checked'];

  function renewAttributes(node, next) {
    [...node.attributes].forEach(({ name }) => { if (!next.hasAttribute(name) && !KEPT.includes(name)) { node.removeAttribute(name); } });
    [...next.attributes].forEach(({ name, value }) => { if (node.getAttribute(name) !== value) { node.setAttribute(name, value); } });
  }

  const keyOf = (node) => (node.dataset && node.dataset.key) || null;

  /* Rows that carry a key are known again by it: one that comes in between moves no other. */
  function renewKeyed(node, children) {
    const wanted = new Set(children.map(keyOf));
    [...node.children].filter((old) => !wanted.has(keyOf(old))).forEach((old) => old.remove());
    const known = new Map([...node.children].map((old) => [keyOf(old), old]));
    children.forEach((child, k) => {
      const old = known.get(keyOf(child));
      const there = node.children[k] || null;
      if (!old) { node.insertBefore(child, there); return; }
      if (old !== there) { node.insertBefore(old, there); }
      renewAttributes(old, child);
      renewChildren(old, [...child.childNodes]);
    });
  }

  function renewChildren(node, children) {
    if (children.length && children.every(keyOf) && [...node.children].every(keyOf)) { renewKeyed(node, children); return; }
    children.forEach((child, k) => {
      const old = node.childNodes[k];
      if (!old) { node.append(child); return; }
      const isSame = old.nodeType === child.nodeType && old.nodeName === child.nodeName;
      if (!isSame || keyOf(old) !== keyOf(child)) { old.replaceWith(child); return; }
      if (child.nodeType === Node.TEXT_NODE) { if (old.data !== child.data) { old.data = child.data; } return; }
      renewAttributes(old, child);
      renewChildren(old, [...child.childNodes]);
    });
    while (node.childNodes.length > children.length) { node.lastChild.remove(); }
  }

  function renew(id, ...children) {
    const node = byId(id);
    if (!node) { return; }
    const focused = document.activeElement;
    renewChildren(node, children.map((child) => (typeof child === 'string' ? document.createTextNode(child) : child)));
    // A row that had to be moved has lost the keyboard.
    if (focused !== document.activeElement && node.contains(focused)) { focused.focus({ preventScroll: true }); }
  }

  function say(id, text) {
    const node = byId(id);
    if (node && node.textContent !== text) { node.textContent = text; }
  }

  /* ---- fields of a form, as the server declares them ---- */
  const menu = ({ options, value }) => make('select', { class: 'menu' },
    ...options.map(([name, title]) => make('option', { value: name, selected: name === value ? '' : null }, title)));

  /* The control of a field, and the list of what is suggested for it where there is one. */
  function control(field, id) {
    if (field.kind === 'menu') { return [menu(field)]; }
    if (field.kind === 'check') { return [make('input', { type: 'checkbox', checked: field.value ? '' : null })]; }
    const list = field.options?.length ? `${id}-suggestions` : null;
    const text = make('input', { type: 'text', class: 'entry', value: field.value, autocomplete: 'off', maxlength: 200, list });
    if (!list) { return [text]; }
    return [text, make('datalist', { id: list }, ...field.options.map(([name]) => make('option', { value: name })))];
  }

  /* A field with its name, its explanation and room for what is wrong with it. */
  function entry(field, id) {
    const [node, suggestions] = control(field, id);
    node.id = id;
    node.dataset.name = field.name;
    node.setAttribute('aria-describedby', `${id}-note`);
    const note = make('span', { id: `${id}-note`, class: 'note', 'data-help': field.help }, field.help);
    return make('div', { class: `form-field is-${field.kind}` }, make('label', { for: id }, field.label), node, suggestions, note);
  }

  const read = (node) => (node.type === 'checkbox' ? node.checked : node.value);
  /* What the fields within a node hold, by name. */
  const filled = (node) => Object.fromEntries([...node.querySelectorAll('[data-name]')].map((one) => [one.dataset.name, read(one)]));

  /* A bar of colours between what its two ends mean. */
  const scale = (id, name, low, high) => fill(id, make('span', {}, low), make('i', { class: `scale ${name}`, 'aria-hidden': 'true' }), make('span', {}, high));

  /* Whether a sample's name stands for several images together. */
  const isGroup = (sample) => sample === 'group' || String(sample).startsWith('into:');

  /* ---- what a panel has to save, by the panel's name (see export.js) ---- */
  const offers = {};
  const offer = (name, list) => { offers[name] = list; };

  window.faultline = { byId, make, built, percent, fill, renew, say, menu, entry, read, filled, isGroup, offer, offers, scale };
})();
