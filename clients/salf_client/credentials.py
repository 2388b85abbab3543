"""Where the packages of object stores look for credentials: for messages, which name the variables."""

_OPEN = "no variable: addresses must be open"
_VARIABLES = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE (FSSPEC_S3_ANON=true for public buckets)",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS (FSSPEC_GS_TOKEN=anon for public buckets)",
    "az": "AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
    "http": _OPEN,
    "https": _OPEN,
}


def looked_for(scheme: str) -> str:
    """What to do about a store that cannot be read: end of a message.

    Args:
        scheme: of the store, such as "s3".
    """
    if scheme not in _VARIABLES:
        return "stores are s3://, gs://, az:// and https://, or give a path"
    return f"credentials are looked for in {_VARIABLES[scheme]}"
