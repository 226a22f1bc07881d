"""A shop in Django, which writes to its database one step at a time."""

import datetime
import io
import os
import threading
from decimal import Decimal

os.environ["DJANGO_SETTINGS_MODULE"] = "shop.settings"

import django
from django.core.management import call_command
from django.core.management.color import no_style
from django.db import IntegrityError, connection, transaction
from django.db.migrations.loader import MigrationLoader
from django.db.models import F
from steps import serve

django.setup()


def migrate(app, name, *_):
    said = io.StringIO()
    call_command("migrate", app, name, verbosity=1, stdout=said)
    return [line.strip() for line in said.getvalue().splitlines() if "Applying" in line or "Unapplying" in line]


def flush():
    """Empty all tables, as `manage.py flush` does."""
    tables = [name for name in connection.introspection.table_names() if name.startswith("shop_")]
    connection.ops.execute_sql_flush(
        connection.ops.sql_flush(no_style(), tables, reset_sequences=True, allow_cascade=True)
    )


def write():
    """Write in all ways that the ORM has, with the models as they are after the migrations that were applied."""
    loader = MigrationLoader(connection)
    apps = loader.project_state(list(loader.applied_migrations)).apps
    Customer, Product, Order, Line = (apps.get_model("shop", name) for name in ("Customer", "Product", "Order", "Line"))
    name = "full_name" if any(field.name == "full_name" for field in Customer._meta.fields) else "name"
    seen = []

    ann = Customer(
        **{name: 'Ann O\'Neil \\ "x"'}, email="ann@example.com", tags=["a", "b,c", '"', "{}"], prefs={"n": [1, None]}
    )
    ann.save()
    ann.tier = "p"
    ann.prefs = []
    ann.save(update_fields=["tier", "prefs"])
    bob, made = Customer.objects.get_or_create(email="bob@example.com", defaults={name: "Bob"})
    _, again = Customer.objects.get_or_create(email="bob@example.com", defaults={name: "Bob"})
    seen += [made, again]
    Customer.objects.update_or_create(email="bob@example.com", defaults={"prefs": {"ö": "\u2028", "big": 2**70}})

    products = Product.objects.bulk_create(
        [
            Product(
                name=f"thing {n}",
                price=Decimal(n) / 8,
                warranty=datetime.timedelta(days=n, seconds=5),
                released=datetime.date(2000 + n, 1, 1),
                photo=bytes(range(n)),
            )
            for n in range(120)
        ]
    )
    for product in products[:50]:
        product.price *= 2
    seen.append(Product.objects.bulk_update(products[:50], ["price"], batch_size=20))
    seen.append(Product.objects.filter(released__year__gte=2100).update(released=None, price=F("price") + 1))
    products[0].related.set(products[1:4])
    products[0].related.remove(products[2])
    Product.objects.bulk_create(
        [Product(id=products[0].id, name="renamed", price=1), Product(id=products[1].id, name="too", price=2)],
        update_conflicts=True,
        unique_fields=["id"],
        update_fields=["name"],
    )
    Product.objects.bulk_create([Product(id=products[0].id, name="ignored", price=1)], ignore_conflicts=True)

    with transaction.atomic():
        order = Order.objects.create(customer=ann, note="one")
        order.products.add(*products[:3], through_defaults={"quantity": 2})
        try:
            with transaction.atomic():
                Line.objects.create(order=order, product=products[5], quantity=9)
                Line.objects.create(order=order, product=products[5], quantity=9)
        except IntegrityError:
            seen.append("refused")
        with transaction.atomic():
            Line.objects.filter(order=order, product=products[1]).delete()
    try:
        with transaction.atomic():
            Order.objects.create(customer=bob, note="never")
            Customer.objects.all().update(tier="f")
            raise RuntimeError
    except RuntimeError:
        seen.append("rolled back")
    with transaction.atomic():
        for number in range(150):
            Order.objects.create(customer=bob, note=f"order {number}")
        sid = transaction.savepoint()
        Order.objects.filter(customer=bob).update(note="undone")
        transaction.savepoint_rollback(sid)
    seen += [_sold(Line, order, products[0])]
    for line in Line.objects.iterator(chunk_size=1):
        line.quantity += 1
        line.save()
    Order.objects.filter(customer=bob, id__in=Order.objects.filter(customer=bob).order_by("id")[:40]).delete()
    seen.append(_counted(ann.delete()))
    seen.append(sorted([model._meta.label, model.objects.count()] for model in (Customer, Product, Order, Line)))
    Customer.objects.filter(email="bob@example.com").delete()
    Product.objects.filter(name__startswith="thing").delete()
    kept = Product.objects.create(name="kept", price="9.990", photo=b"\0")
    for tier in "fp":
        customer = Customer.objects.create(**{name: f"Kept {tier}"}, email=f"{kept.id}@{tier}", tier=tier)
        Line.objects.create(order=Order.objects.create(customer=customer), product=kept)
    return seen


def _sold(line_model, order, product):
    """Two at once, each with the row locked."""

    def sell():
        with transaction.atomic():
            line = line_model.objects.select_for_update().get(order=order, product=product)
            line.quantity *= 10
            line.save()
        connection.close()

    both = [threading.Thread(target=sell) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    return line_model.objects.get(order=order, product=product).quantity


def _counted(deleted):
    return [deleted[0], sorted(deleted[1].items())]


def rate(model):
    loader = MigrationLoader(connection)
    apps = loader.project_state(list(loader.applied_migrations)).apps
    product, _ = apps.get_model("shop", "Product").objects.get_or_create(name="rated", defaults={"price": 1})
    return apps.get_model("shop", model).objects.create(product=product, stars=5).id


serve({"migrate": migrate, "write": write, "flush": flush, "rate": rate})
