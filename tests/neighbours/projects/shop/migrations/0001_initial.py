import uuid

import django.contrib.postgres.fields
import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True
    operations = [
        migrations.CreateModel(
            "Customer",
            [
                ("id", models.AutoField(primary_key=True)),
                ("name", models.CharField(max_length=80)),
                ("email", models.EmailField(unique=True)),
                ("tier", models.CharField(max_length=1, choices=[("f", "free"), ("p", "paid")], default="f")),
                ("tags", django.contrib.postgres.fields.ArrayField(models.CharField(max_length=20), default=list)),
                ("prefs", models.JSONField(default=dict)),
                ("joined", models.DateTimeField(auto_now_add=True)),
            ],
        ),
        migrations.CreateModel(
            "Product",
            [
                ("id", models.UUIDField(primary_key=True, default=uuid.uuid4)),
                ("name", models.CharField(max_length=80)),
                ("price", models.DecimalField(max_digits=12, decimal_places=3)),
                ("weight", models.FloatField(null=True)),
                ("released", models.DateField(null=True)),
                ("warranty", models.DurationField(null=True)),
                ("photo", models.BinaryField(null=True)),
            ],
        ),
        migrations.CreateModel(
            "Order",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("customer", models.ForeignKey("shop.Customer", django.db.models.deletion.CASCADE)),
                ("note", models.TextField(default="")),
                ("changed", models.DateTimeField(auto_now=True)),
            ],
        ),
        migrations.CreateModel(
            "Line",
            [
                ("id", models.BigAutoField(primary_key=True)),
                ("order", models.ForeignKey("shop.Order", django.db.models.deletion.CASCADE)),
                ("product", models.ForeignKey("shop.Product", django.db.models.deletion.PROTECT)),
                ("quantity", models.PositiveIntegerField(default=1)),
            ],
        ),
        migrations.AddField("Order", "products", models.ManyToManyField("shop.Product", through="shop.Line")),
        migrations.AddField("Product", "related", models.ManyToManyField("self", symmetrical=False)),
        migrations.AddConstraint("Line", models.UniqueConstraint(fields=["order", "product"], name="once")),
    ]
