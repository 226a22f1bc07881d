from django.db import migrations, models
from django.db.models import F, Value
from django.db.models.functions import Concat, Lower


def make_slugs(apps, schema_editor):
    customers = apps.get_model("shop", "Customer").objects
    customers.update(slug=Concat(Lower("full_name"), Value("-"), F("id"), output_field=models.CharField()))
    for customer in customers.filter(tier="p"):
        customer.prefs["migrated"] = True
        customer.save()


class Migration(migrations.Migration):
    dependencies = [("shop", "0001_initial")]
    operations = [
        migrations.AddField("Customer", "newsletter", models.BooleanField(default=False)),
        migrations.AddField("Order", "channel", models.CharField(max_length=9, db_default="web")),
        migrations.RenameField("Customer", "name", "full_name"),
        migrations.AddField("Customer", "slug", models.CharField(max_length=99, null=True)),
        migrations.RunPython(make_slugs, migrations.RunPython.noop),
        migrations.AddIndex("Customer", models.Index(fields=["slug"], name="by_slug")),
        migrations.AlterField("Customer", "id", models.BigAutoField(primary_key=True)),
        migrations.AlterField("Order", "note", models.CharField(max_length=200, default="")),
        migrations.AlterField(
            "Customer",
            "tier",
            models.CharField(max_length=1, choices=[("f", "free"), ("p", "paid"), ("t", "trial")], default="f"),
        ),
        migrations.AddConstraint(
            "Line", models.CheckConstraint(condition=models.Q(quantity__gt=0), name="at_least_one")
        ),
        migrations.CreateModel(
            "Review",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("product", models.ForeignKey("shop.Product", models.CASCADE)),
                ("stars", models.SmallIntegerField()),
            ],
        ),
    ]
