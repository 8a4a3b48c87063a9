"""Models and data on the page: added from the import folder, checked, archived; the explain page's menus follow."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from engine import demo
from tests.browser.conftest import Watched, choose, logged_in, require, start, stop, until, watching

pytestmark = pytest.mark.browser
SAID = {kind: f"document.querySelector('#registry-answer-{kind}').textContent" for kind in ("model", "data")}
REPORT = "document.querySelector('#registry-report')?.textContent"


@pytest.fixture(scope="module")
def model_registry(chromium, tmp_path_factory):
    """A server on the demo, with an import folder that holds a network, images and class names."""
    folder = tmp_path_factory.mktemp("desk")
    import_folder = folder / "inbox"
    import_folder.mkdir()
    shutil.copyfile(demo.weights(demo.MODELS[1]), import_folder / "net.safetensors")
    (import_folder / "names.txt").write_text("\n".join(demo.CLASSES) + "\n")
    found = demo.held_out()
    np.savez(import_folder / "few.npz", x=found.x[:60], y=found.y[:60])
    running = start(folder / "store", "--inbox", str(import_folder))
    yield running
    stop(running)


@pytest.fixture(scope="module")
def cookies(chromium, model_registry):
    """Log in once: the printed link works once."""
    return logged_in(chromium, model_registry)


@pytest.fixture
def page(chromium, cookies):
    yield from watching(chromium, cookies)


def test_a_model_and_data_come_in_are_checked_used_and_archived(page: Watched, model_registry):
    shown = page.page
    shown.goto(f"{model_registry.url}/?page=models")
    shown.locator("summary", has_text="Add a data set").click()
    shown.locator("#registry-data-name").fill("few")
    shown.locator("#registry-data-classes").select_option(label="names.txt")
    shown.locator("#registry-data-epsilon").fill("nonsense")
    shown.locator(".registry-form[data-kind=data] button").click()
    until(shown, "document.querySelector('#registry-data-epsilon-note').textContent.includes('nonsense')")
    assert shown.evaluate("() => document.activeElement.id") == "registry-data-epsilon", "at its field"
    shown.locator("#registry-data-epsilon").fill("9")
    assert shown.locator("#registry-data-epsilon").get_attribute("aria-invalid") is None
    shown.locator(".registry-form[data-kind=data] button").click()
    until(shown, "document.querySelector('#registry-data-epsilon-note').textContent.includes('must lie in')")
    shown.locator("#registry-data-epsilon").fill("24/255")
    shown.locator(".registry-form[data-kind=data] button").click()
    until(shown, f"{SAID['data']}.startsWith('Added few')")
    shown.locator("summary", has_text="Add a model").click()
    shown.locator("#registry-model-name").fill("mine")
    shown.locator("#registry-model-architecture").fill(demo.ARCHITECTURE)
    shown.locator("#registry-model-classes").select_option(label="names.txt")
    shown.locator(".registry-form[data-kind=model] button").click()
    until(shown, f"{SAID['model']}.startsWith('Added mine')")
    until(shown, f"{REPORT}?.includes('Validation report: mine, checked on 500 images of digits')")
    shown.goto(f"{model_registry.url}/?page=models")
    until(shown, "document.querySelector('#registry-models')?.textContent?.includes('✔ passed, on digits')")
    shown.locator('[data-report="mine@few"]').click()
    until(shown, f"{REPORT}?.includes('60 images of few')")
    assert shown.locator("#registry-report .check-fail").count() == 0
    shown.get_by_role("button", name="Explain").click()
    choose(shown, "model-select", "^mine$")
    until(shown, "new URLSearchParams(location.search).get('model') === 'mine'")
    shown.get_by_role("button", name="Models and data").click()
    shown.get_by_role("button", name="Archive mine").click()
    shown.get_by_role("button", name="Take mine back").wait_for()
    shown.reload()
    shown.get_by_role("button", name="Take mine back").click()
    shown.get_by_role("button", name="Archive mine").wait_for()


def test_the_hash_is_copied_whole_and_ways_lead_to_an_audit_and_to_explain(page: Watched, model_registry):
    shown = page.page
    shown.context.grant_permissions(["clipboard-read", "clipboard-write"])
    shown.goto(f"{model_registry.url}/?page=models")
    copy = shown.get_by_label("Copy the hash of digits-robust")
    copy.click()
    until(shown, "[...document.querySelectorAll('[data-copy]')].some((one) => one.textContent === 'Copied')")
    copied = shown.evaluate("navigator.clipboard.readText()")
    assert (len(copied), copied) == (32, copy.get_attribute("data-copy"))
    shown.locator("[data-plan=digits-robust]").first.click()
    until(shown, "document.querySelector('#audit-field-model')?.value === 'digits-robust'")
    assert shown.evaluate("new URLSearchParams(location.search).get('page')") == "audits"


def test_a_form_shows_four_fields_and_unfolds_the_rest_where_something_is_wrong(page: Watched, model_registry):
    shown = page.page
    shown.goto(f"{model_registry.url}/?page=models")
    shown.locator("summary", has_text="Add a model").click()
    assert shown.locator(".registry-form[data-kind=model] [data-name]:visible").count() == 4
    shown.locator(".registry-form[data-kind=model] summary", has_text="More").click()
    shown.locator("#registry-model-mean").fill("half")
    shown.locator(".registry-form[data-kind=model] summary", has_text="More").click()
    shown.locator(".registry-form[data-kind=model] button").click()
    until(shown, "document.querySelectorAll('.registry-form [aria-invalid]').length === 4")
    assert shown.locator("#registry-model-mean").is_visible()
    assert shown.evaluate("document.activeElement.id") == "registry-model-name"


DROP = """([name, text]) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([text], name));
    const target = document.querySelector('#registry-drop');
    ['dragenter', 'dragover', 'drop'].forEach((kind) =>
        target.dispatchEvent(new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true })));
}"""
LIST = "document.querySelector('#upload-list').textContent"


def test_a_file_that_is_dropped_lies_in_the_import_folder_and_is_offered(page: Watched, model_registry):
    shown = page.page
    shown.goto(f"{model_registry.url}/?page=models")
    until(shown, "document.querySelector('#registry-drop')?.hidden === false")
    shown.locator("summary", has_text="Add a model").click()
    shown.locator("#registry-model-name").fill("typed before")
    shown.evaluate(DROP, ["my names.txt", "cat\ndog\n"])
    until(shown, f"{LIST}.includes('my-names.txt lies in the import folder now.')")
    until(
        shown,
        "[...document.querySelectorAll('#registry-model-classes option')].some((one) => one.label === 'my-names.txt')",
    )
    assert shown.locator("#registry-model-name").input_value() == "typed before", "what was typed stays"
    assert shown.locator("[data-form=model]").get_attribute("open") is not None
    shown.locator("summary", has_text="What lies in the import folder").click()
    assert "my-names.txt" in shown.locator("#registry-files").inner_text()
    shown.evaluate(DROP, ["my names.txt", "other"])
    until(shown, f"{LIST}.includes('lies in the import folder already')")
    shown.evaluate(DROP, ["page.html", "<b>"])
    until(shown, f"{LIST}.includes('page.html cannot be added')")


def test_a_file_is_chosen_by_keyboard_too(page: Watched, model_registry):
    shown = page.page
    shown.goto(f"{model_registry.url}/?page=models")
    button = shown.get_by_role("button", name="Choose files")
    with shown.expect_file_chooser() as chooser:
        button.focus()
        shown.keyboard.press("Enter")
    chooser.value.set_files([{"name": "chosen.npz", "mimeType": "application/zip", "buffer": b"x" * 3_000_000}])
    until(shown, f"{LIST}.includes('chosen.npz lies in the import folder now.')")


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_page_has_no_accessibility_violation(page: Watched, model_registry, theme):
    shown = page.page
    shown.goto(f"{model_registry.url}/?page=models&report=digits-standard@digits&theme={theme}")
    until(shown, f"{REPORT}?.includes('Validation report')")
    shown.locator("summary", has_text="Add a model").click()
    found = require("axe_playwright_python.sync_playwright").Axe().run(shown).response["violations"]
    assert [(item["id"], [node["target"] for node in item["nodes"]]) for item in found] == []
