/* A menu with many entries is searched: a field over its list, filtered as one types. The menu itself stays what is chosen. */
(function () {
  'use strict';

  const { byId, make } = window.faultline;
  const MANY = 20;
  const MOST = 200;
  const state = { menu: null, at: 0, found: [] };
  let size = '';
  const isLong = (node) => node && node.matches?.('select.menu') && node.options.length > MANY && !node.disabled;

  function open(menu) {
    close();
    state.menu = menu;
    size = `${window.innerWidth} ${window.innerHeight}`;
    const label = menu.closest('label')?.querySelector('span')?.textContent || menu.getAttribute('aria-label') || 'Menu';
    const field = make('input', { id: 'menu-search-field', type: 'text', class: 'entry', role: 'combobox', autocomplete: 'off', spellcheck: 'false', 'aria-expanded': 'true',
      'aria-controls': 'menu-search-list', 'aria-autocomplete': 'list', 'aria-label': `Search ${label}`, placeholder: `Search ${menu.options.length} entries` });
    const box = make('div', { id: 'menu-search', role: 'dialog', 'aria-label': `Search ${label}` }, field, make('ul', { id: 'menu-search-list', role: 'listbox', 'aria-label': label }), make('p', { class: 'note', role: 'status' }));
    document.body.append(box);
    const place = menu.getBoundingClientRect();
    const width = Math.max(place.width, 240);
    Object.assign(box.style, { left: `${Math.max(8, Math.min(place.left, window.innerWidth - width - 8))}px`, top: `${place.bottom + 2}px`, width: `${width}px`,
      maxHeight: `${Math.max(200, Math.min(420, window.innerHeight - place.bottom - 16))}px` });
    field.addEventListener('input', () => filter(field.value));
    filter('');
    field.focus();
  }

  function close(back) {
    const { menu } = state;
    state.menu = null;
    byId('menu-search')?.remove();
    if (back && menu) { menu.focus(); }
  }

  function filter(text) {
    const wanted = text.toLowerCase().trim();
    const all = [...state.menu.options].filter((one) => one.label.toLowerCase().includes(wanted));
    state.found = all.slice(0, MOST);
    state.at = wanted ? 0 : Math.max(0, state.found.findIndex((one) => one.value === state.menu.value));
    const group = (one) => one?.closest('optgroup')?.label || '';
    byId('menu-search-list').replaceChildren(...state.found.flatMap((one, k) => [
      group(one) && group(one) !== group(state.found[k - 1]) ? make('li', { class: 'group', role: 'presentation' }, group(one)) : '',
      make('li', { id: `menu-search-${k}`, role: 'option', 'aria-selected': String(one.value === state.menu.value), 'data-at': k }, one.label)]).filter(Boolean));
    byId('menu-search').querySelector('.note').textContent = !all.length ? 'Nothing is called so.' : all.length > MOST ? `The first ${MOST} of ${all.length}; type to narrow.` : '';
    point(state.at);
  }

  function point(at) {
    state.at = Math.max(0, Math.min(state.found.length - 1, at));
    const list = byId('menu-search-list');
    list.querySelector('.is-pointed')?.classList.remove('is-pointed');
    const node = byId(`menu-search-${state.at}`);
    node?.classList.add('is-pointed');
    node?.scrollIntoView({ block: 'nearest' });
    byId('menu-search-field').setAttribute('aria-activedescendant', node ? node.id : '');
  }

  function choose(at) {
    const { menu, found } = state;
    if (!found[at]) { return; }
    menu.value = found[at].value;
    close(true);
    menu.dispatchEvent(new Event('change', { bubbles: true }));
  }

  function typed(event) {
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10 }[event.key];
    if (by) { event.preventDefault(); point(state.at + by); }
    if (event.key === 'Enter') { event.preventDefault(); choose(state.at); }
    if (event.key === 'Escape') { event.preventDefault(); event.stopPropagation(); close(true); }
    if (event.key === 'Tab') { close(true); }
  }

  document.addEventListener('keydown', (event) => {
    if (event.target.id === 'menu-search-field') { typed(event); return; }
    if (isLong(event.target) && (['Enter', ' ', 'F4'].includes(event.key) || (event.altKey && event.key === 'ArrowDown'))) { event.preventDefault(); open(event.target); }
  }, true);
  document.addEventListener('mousedown', (event) => {
    const menu = event.target.closest?.('select.menu');
    if (isLong(menu)) { event.preventDefault(); if (state.menu === menu) { close(true); } else { open(menu); } return; }
    const entry = event.target.closest?.('#menu-search-list [role=option]');
    if (entry) { event.preventDefault(); choose(Number(entry.dataset.at)); return; }
    if (state.menu && !event.target.closest?.('#menu-search')) { close(); }
  }, true);
  // The page itself tells of a resize where only its parts change.
  window.addEventListener('resize', () => {
    const now = `${window.innerWidth} ${window.innerHeight}`;
    if (now !== size) { close(); }
    size = now;
  });
})();
