"""Add the indexes by which the admin finds users by words of their names and emails, and disclosures of their data.

search_words(name, email)   returns the words of a user in lower case, without accents, "ae" as "a"
search_words(search)        returns the words of a search in the same way

The index and a search call the same function, so that both treat every character the same. An index on an expression
needs no new column, which would rewrite the table, and no code that fills it, so it also finds users that the previous
release or plain SQL adds. The function needs no extension, and therefore no superuser.

Every statement can be repeated, because an interrupted migration that is not atomic starts again from the beginning.
"""

from django.contrib.postgres.indexes import GinIndex
from django.contrib.postgres.search import SearchVectorField
from django.db import migrations, models

FUNCTION = r"""
CREATE OR REPLACE FUNCTION search_words(value text, email text DEFAULT NULL) RETURNS text[]
-- The measured cost, in units of cpu_operator_cost. With the default of 100 the planner would scan the table more often.
-- Not PARALLEL SAFE, because a search would take longer to start workers than to read the index.
LANGUAGE plpgsql IMMUTABLE COST 1000 AS $$
BEGIN
    IF email IS NOT NULL THEN
        value := value || ' ' || email;
    END IF;
    IF octet_length(value) > length(value) THEN  -- not only ASCII
        -- NFKD separates accents from letters. It does not change those that `translate` replaces.
        value := translate(
            regexp_replace(normalize(value, NFKD), '[\u0300-\u036f]', '', 'g'),
            'æÆœŒøØłŁđĐðÐħĦı’ʼ', 'aaoooollddddhhi'''''
        );
        value := replace(replace(replace(value, 'ß', 'ss'), 'ẞ', 'ss'), 'þ', 'th');
    END IF;
    -- Of a user also the parts of a word before and after apostrophes, and where letters and digits meet: o'brien, lee42.
    IF email IS NOT NULL AND value ~ '[''0-9]' THEN
        value := value || ' ' || regexp_replace(value, '''|(?<=[0-9])(?=[^0-9])|(?<=[^0-9])(?=[0-9])', ' ', 'g');
    END IF;
    -- So "mueller" and "müller", "soeren" and "søren" are the same, and the beginning of a word stays its beginning.
    value := regexp_replace(lower(value), '([aou])e', '\1', 'g');
    -- The ranges are punctuation and spaces. They do not depend on the locale of the database, unlike [:alnum:].
    value := btrim(regexp_replace(
        replace(value, '''', ''),
        '[\u0001-\u002f\u003a-\u0060\u007b-\u00bf\u2000-\u206f\u2e00-\u2e7f\u3000-\u303f]+', ' ', 'g'
    ));
    -- GIN refuses long words, and NFKD can make 18 characters of one.
    RETURN ARRAY(SELECT left(word, 64) FROM unnest(string_to_array(value, ' ')) AS word);
END $$
"""


# PostgreSQL has statistics of an index on an expression only after ANALYZE. Without them it would read the index for a
# word that every user has.
USERS = (
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS users_words ON users USING gin "
    "(array_to_tsvector(search_words(full_name, email)))",
    "DROP INDEX CONCURRENTLY IF EXISTS users_words",
)


def disclosures(column: str) -> migrations.RunSQL:
    name = f"audit_events_{column.removesuffix('_id')}"
    index = models.Index(
        fields=(column, "created_at", "id"), name=name, condition=models.Q((f"{column}__isnull", False))
    )
    return migrations.RunSQL(
        f"CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON audit_events ({column}, created_at, id) "
        f"WHERE {column} IS NOT NULL",
        f"DROP INDEX CONCURRENTLY IF EXISTS {name}",
        state_operations=[migrations.AddIndex("auditevent", index)],
    )


class Migration(migrations.Migration):
    atomic = False  # for CREATE INDEX CONCURRENTLY

    dependencies = [("core", "0015_audit_event_subjects")]

    operations = [
        migrations.RunSQL(FUNCTION, "DROP FUNCTION IF EXISTS search_words(text, text)"),
        migrations.RunSQL(
            *USERS,
            state_operations=[
                migrations.AddIndex(
                    "user",
                    GinIndex(
                        models.Func(
                            models.Func("full_name", "email", function="search_words"),
                            function="array_to_tsvector",
                            output_field=SearchVectorField(),
                        ),
                        name="users_words",
                    ),
                )
            ],
        ),
        migrations.RunSQL("ANALYZE users", migrations.RunSQL.noop),
        disclosures("subject_id"),
        disclosures("session_id"),
    ]
