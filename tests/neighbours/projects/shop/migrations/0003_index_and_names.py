from django.contrib.postgres.operations import AddIndexConcurrently
from django.db import migrations, models


class Migration(migrations.Migration):
    atomic = False
    dependencies = [("shop", "0002_growth")]
    operations = [
        AddIndexConcurrently("Order", models.Index(fields=["channel", "changed"], name="by_channel")),
        migrations.RenameModel("Review", "Rating"),
        migrations.RemoveField("Product", "weight"),
    ]
