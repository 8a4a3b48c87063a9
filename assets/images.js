/* The images of a run: menus, a search and a table whose rows come block by block; every choice is a step of the link. */
(function () {
  'use strict';

  const { built, byId, make, on, panel, pick, renew, set } = window.faultline;
  const FIELDS = ['role', 'attacks', 'classes', 'ended', 'under', 'status', 'into', 'find', 'order'];
  const MENUS = ['under', 'status', 'classes', 'into'];
  const LIBRARY = '/_dash-component-suites/dash_ag_grid/dash_ag_grid.min.js';
  const GRID = 'images-grid';
  let view = {};
  let run = null;
  let grid = null;
  let mounting = null;
  /* What the table lists now: the run and its query, and how many rows that is. */
  let listed = { run: null, query: null, count: 0 };
  let goal = null;

  const wish = () => ({ run, ...Object.fromEntries(FIELDS.map((name) => [name, view[name] || null])) });

  function ask() {
    const section = byId('images');
    if (view.page !== 'audits' || !run) {
      own.forget();
      if (section) { section.hidden = true; }
      return;
    }
    const next = wish();
    if (JSON.stringify(next) === JSON.stringify(own.wanted)) { return; }
    section.setAttribute('aria-busy', 'true');
    own.want(next);
  }

  /* ---- the table: its library is fetched when it is first shown ---- */
  const fetched = () => new Promise((resolve, reject) => {
    if (window.dash_ag_grid) { resolve(); return; }
    const script = make('script', { src: LIBRARY });
    script.onload = resolve;
    script.onerror = () => reject(new Error('The table could not be loaded; reload the page.'));
    document.head.append(script);
  });

  async function mounted(layout) {
    await fetched();
    // A table whose heads and rows are still being made says nothing to anybody.
    byId('images-frame').classList.add('is-mounting');
    set('images-frame', { children: layout });
    const api = await window.dash_ag_grid.getApiAsync(GRID);
    // Dash gives the table a source of its own once it is ready; ours must come after it.
    while (!api.getGridOption('datasource')) { await new Promise((resolve) => { window.setTimeout(resolve, 20); }); }
    api.setGridOption('tabToNextCell', () => false);
    api.setGridOption('tabToNextHeader', () => false);
    api.addEventListener('sortChanged', sorted);
    api.addEventListener('rowClicked', ({ data, event }) => { if (data && !event.target.closest('a')) { open(data, event); } });
    api.addEventListener('cellKeyDown', ({ data, event }) => { if (data && event.key === 'Enter') { open(data, event); } });
    document.querySelectorAll('#images-grid .ag-header-cell').forEach((head) => {
      const term = [...head.classList].find((name) => name.startsWith('image-'));
      if (term) { head.dataset.term = term; }
    });
    return api;
  }

  function open(data, event) {
    if (!data.link || String(window.getSelection())) { return; }
    remember();
    if (event.ctrlKey || event.metaKey) { window.open(`/?${data.link}`); } else { window.location.assign(`/?${data.link}`); }
  }

  const orderOf = (states) => {
    const own = states.find((one) => one.sort);
    return own ? `${own.sort === 'desc' ? '-' : ''}${own.colId}` : null;
  };

  function sorted() {
    const order = orderOf(grid ? grid.getColumnState() : []);
    if (grid && order !== (view.order || null)) { pick({ order }); }
  }

  const show = () => window.requestAnimationFrame(() => window.requestAnimationFrame(() => byId('images-frame').classList.remove('is-mounting')));

  function source(own) {
    return {
      rowCount: own.count,
      getRows: async ({ startRow, endRow, sortModel, successCallback, failCallback }) => {
        // Sorted otherwise than the link says: the link follows, and with it another source.
        if (orderOf(sortModel) !== own.order) { return; }
        try {
          const join = own.query ? `${own.query}&` : '?';
          const reply = await fetch(`/audits/${own.run}/images.json${join}from=${startRow}&to=${endRow}`);
          const { rows, count, error } = await reply.json();
          if (error) { throw new Error(error); }
          successCallback(rows, count);
        } catch (error) {
          failCallback();
          renew('images-lead', make('span', { class: 'nothing' }, `Rows could not be read: ${error.message}`));
        }
        show();
      },
    };
  }

  function order(api) {
    const wanted = view.order || '';
    const state = wanted ? [{ colId: wanted.replace(/^-/, ''), sort: wanted.startsWith('-') ? 'desc' : 'asc' }] : [];
    if (orderOf(api.getColumnState()) !== (wanted || null)) { api.applyColumnState({ state, defaultState: { sort: null } }); }
  }

  async function list(facts, wanted) {
    byId('images-frame').hidden = !facts.count;
    if (!facts.count) { listed = { run: null, query: null, count: 0 }; return; }
    mounting = mounting || mounted(facts.grid);
    try {
      grid = await mounting;
    } catch (error) {
      mounting = null;
      renew('images-lead', make('span', { class: 'nothing' }, error.message));
      return;
    }
    if (own.wanted !== wanted) { return; }
    const next = { run: wanted.run, query: facts.query, count: facts.count, order: wanted.order };
    order(grid);
    const isSame = listed.run === next.run && listed.query === next.query;
    if (isSame && listed.count === next.count) { return; }
    listed = next;
    grid.setGridOption('datasource', source(next));
    if (isSame) { return; }
    back();
  }

  /* ---- where the reader was, when Back leads here again ---- */
  const PLACE = 'faultline-images';

  function remember() {
    const first = grid ? grid.getFirstDisplayedRowIndex() : 0;
    try {
      window.sessionStorage.setItem(PLACE, JSON.stringify({ run: listed.run, query: listed.query, first, focus: grid?.getFocusedCell()?.rowIndex }));
    } catch (error) {
      /* Storage may be switched off; the table then begins at its top. */
    }
  }

  function back() {
    let place = null;
    try {
      place = JSON.parse(window.sessionStorage.getItem(PLACE) || 'null');
      window.sessionStorage.removeItem(PLACE);
    } catch (error) {
      /* As above. */
    }
    if (!place || place.run !== listed.run || place.query !== listed.query) { return; }
    grid.ensureIndexVisible(place.first, 'top');
    if (place.focus !== undefined && place.focus !== null) { grid.setFocusedCell(place.focus, 'sample'); }
    byId('images').scrollIntoView({ block: 'start' });
  }

  /* ---- what stands around it ---- */
  const filled = {};

  function fill(name, { options, value }) {
    const node = byId(`images-${name}`);
    const now = JSON.stringify(options);
    if (filled[name] !== now) { node.replaceChildren(...options.map(([own, title]) => make('option', { value: own }, title))); }
    filled[name] = now;
    if (node.value !== value) { node.value = value; }
  }

  function draw(facts, wanted) {
    const section = byId('images');
    section.hidden = false;
    section.removeAttribute('aria-busy');
    renew('images-lead', ...facts.lead.map(built));
    renew('images-files', ...facts.files.map(built));
    Object.entries(facts.menus).forEach(([name, menu]) => fill(name, menu));
    const find = byId('images-find');
    if (document.activeElement !== find && find.value !== (view.find || '')) { find.value = view.find || ''; }
    list(facts, wanted);
    if (goal) { goal(); goal = null; }
  }

  const own = panel('images', { draw });

  on('view', (next) => {
    if (next.run && next.run !== view.run) { run = next.run; }
    view = next;
    ask();
  });
  on('run', (next) => { if (next !== run) { run = next; ask(); } });

  document.addEventListener('change', (event) => {
    const name = MENUS.find((one) => event.target.id === `images-${one}`);
    if (name) { pick({ [name]: event.target.value || null }); }
  });

  let waiting = null;
  document.addEventListener('input', (event) => {
    if (event.target.id !== 'images-find') { return; }
    window.clearTimeout(waiting);
    waiting = window.setTimeout(() => pick({ find: event.target.value.trim() || null }), 250);
  });

  /* A number on the page leads to the images it counts: in place, unless it is opened elsewhere. */
  document.addEventListener('click', (event) => {
    const link = event.target.closest?.('a.to-images');
    if (event.target.closest?.('#images-grid a')) { remember(); }
    if (!link || event.ctrlKey || event.metaKey || event.shiftKey || event.button) { return; }
    event.preventDefault();
    const query = new URLSearchParams(link.search);
    pick(Object.fromEntries(FIELDS.map((name) => [name, query.get(name)])));
    goal = () => { byId('images').scrollIntoView({ block: 'start' }); byId('images-heading').focus({ preventScroll: true }); };
    if (JSON.stringify(own.wanted) === JSON.stringify({ ...own.wanted, ...Object.fromEntries(FIELDS.map((name) => [name, query.get(name)])) })) { goal(); goal = null; }
  });

  /* ---- what draws the cells that hold more than text ---- */
  const element = (...parts) => window.React.createElement(...parts);
  const renderers = {
    RunPicture: ({ value, data, column }) => (value
      ? element('img', { src: value, width: 48, height: 48, alt: `${column.getColDef().headerName} ${data.sample}`, className: 'run-picture' })
      : null),
    RunImage: ({ value, data }) => (data && data.link
      ? element('a', { href: `/?${data.link}`, tabIndex: -1, 'aria-label': `Explain ${value} under ${data.condition}` }, value)
      : value || ''),
  };
  window.dashAgGridComponentFunctions = Object.assign(window.dashAgGridComponentFunctions || {}, renderers);
})();
