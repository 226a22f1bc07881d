"""A site in Wagtail, which writes to its database one step at a time."""

import os

os.environ["DJANGO_SETTINGS_MODULE"] = "pages.settings"

import django
from django.core.management import call_command
from django.db import connection
from django.db.migrations.executor import MigrationExecutor
from steps import serve

django.setup()


def migrate_half():
    executor = MigrationExecutor(connection)
    targets = executor.loader.graph.leaf_nodes()
    plan = executor.migration_plan(targets)
    executor.migrate(targets, plan=plan[: len(plan) // 2])
    return len(plan)


def migrate():
    call_command("migrate", verbosity=0)
    executor = MigrationExecutor(connection)
    return executor.migration_plan(executor.loader.graph.leaf_nodes())


def write():
    """Pages in a tree: made, published, copied, moved and deleted with all below them."""
    from wagtail.models import Page

    home = Page.get_first_root_node().get_children().first()
    sections = [home.add_child(instance=Page(title=f"Section {n}", slug=f"section-{n}")) for n in range(3)]
    for section in sections:
        for number in range(4):
            page = section.add_child(instance=Page(title=f"Page {number}", slug=f"page-{number}"))
            page.title += " again"
            page.save_revision().publish()
    sections[0].refresh_from_db()
    sections[0].copy(recursive=True, update_attrs={"title": "Copy", "slug": "copy"})
    sections[1].refresh_from_db()
    sections[1].move(Page.objects.get(id=sections[2].id), pos="first-child")
    Page.objects.get(id=sections[0].id).delete()
    Page.objects.get(slug="copy").get_children().first().unpublish()
    return [[page.path, page.title] for page in Page.objects.order_by("path")]


serve({"migrate half": migrate_half, "migrate": migrate, "write": write})
